/** What a dream's card looks like; it decides nothing. */

import { ConnectionState, type ConnectionStatus, type Dream, type Id, type ImagesStatus } from "../src/index.js";
import { button, el } from "./dom.js";
import { showDreamText, showExpectedText, type ExpectedPicture } from "./dream-text.js";
import { texts } from "./texts.js";

/** What a person can ask of a card. */
export interface CardActions {
  readonly onRetry: () => void;
  readonly onDelete: () => void;
  readonly onReconnect: () => void;
}

/** The elements of one card. */
export class CardView {
  readonly element: HTMLElement;
  private readonly status = el("span", { class: "chip", testid: "dream-status" });
  private readonly connectionText = el("span");
  private readonly connection = el("span", { class: "connection", testid: "connection-state" }, this.connectionText);
  private readonly reconnect: HTMLButtonElement;
  private readonly progress = el("progress", { class: "card-progress", attributes: { max: "1" } });
  private readonly text = el("div", { class: "dream-text", testid: "dream-text" });
  private readonly errorText = el("p");
  private readonly errorList = el("ul");
  private readonly error = el("div", { class: "error-box", testid: "dream-error" }, this.errorText, this.errorList);
  private readonly problem = el("p", { class: "error-text", testid: "dream-problem", attributes: { role: "alert" } });
  private readonly retry: HTMLButtonElement;
  private readonly remove: HTMLButtonElement;
  private readonly confirm: HTMLElement;
  private countdown: ReturnType<typeof setInterval> | undefined;
  private shownText = "";

  constructor(dream: Dream, actions: CardActions) {
    const headingId = `dream-${String(dream.id)}`;
    this.retry = button(texts.retry, "secondary", actions.onRetry, { testid: "retry-dream" });
    this.remove = button(texts.delete, "quiet danger", () => this.askDelete(true), {
      testid: "delete-dream",
      attributes: { "aria-label": texts.deleteNamed(dream.title) },
    });
    const sure = button(texts.deleteConfirm, "danger solid", () => {
      this.askDelete(false);
      actions.onDelete();
    }, { testid: "confirm-delete" });
    const keep = button(texts.deleteKeep, "quiet", () => this.askDelete(false), { testid: "keep-dream" });
    this.confirm = el("span", { class: "confirm", attributes: { hidden: "", role: "group" } }, sure, keep);
    this.confirm.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.askDelete(false);
    });
    this.reconnect = button(texts.reconnectNow, "quiet small", actions.onReconnect);
    this.element = el(
      "article",
      {
        class: "card dream",
        testid: "dream",
        attributes: { "data-dream-id": String(dream.id), "aria-labelledby": headingId },
      },
      el(
        "header",
        { class: "dream-head" },
        el("h3", { text: dream.title, attributes: { id: headingId } }),
        el(
          "p",
          { class: "dream-meta" },
          el("time", { text: dateText(dream.created_at), attributes: { datetime: dream.created_at } }),
          this.status,
          this.connection,
          this.reconnect,
        ),
      ),
      this.progress,
      this.text,
      this.error,
      this.problem,
      el("footer", { class: "dream-foot" }, this.retry, this.remove, this.confirm),
    );
    this.showConnection(null);
    this.showProblem(null);
  }

  /** Shows the state, its message, and every picture's error. */
  showStatus(status: ImagesStatus): void {
    const { element } = this;
    element.dataset["status"] = status.status;
    this.status.dataset["status"] = status.status;
    this.status.textContent = texts.status[status.status];
    const isWorking = status.status === "processing" || status.status === "delete_processing";
    element.setAttribute("aria-busy", String(isWorking));
    this.progress.hidden = !isWorking;
    if (!isWorking || status.status === "delete_processing") this.showProgress(null);

    const isGoing = status.status === "delete_processing" || status.status === "delete_completed";
    const errors = isGoing ? [] : (status.errors ?? []);
    const message = messageOf(status);
    this.error.hidden = message === null && errors.length === 0;
    this.errorText.textContent = message ?? "";
    this.errorText.hidden = message === null;
    const numberOf = numbering([...status.images.map(({ id }) => id), ...errors.map(({ image_id }) => image_id)]);
    const lines = errors.map(({ image_id, code, detail }) => {
      const text = texts.pictureProblem(numberOf(image_id), texts.imageErrors[code] ?? detail);
      return el("li", { text, attributes: { "data-code": code, "data-image-id": String(image_id) } });
    });
    this.errorList.replaceChildren(...lines);
    this.errorList.hidden = lines.length === 0;
    this.retry.hidden = status.status !== "failed" && !(status.status === "completed" && errors.length > 0);
    this.remove.disabled = status.status === "delete_processing" || status.status === "delete_completed";
    if (this.remove.disabled) this.askDelete(false);
  }

  /** `share` of the work done, 0 to 1; `null`: unknown. */
  showProgress(share: number | null): void {
    if (share === null) {
      this.progress.removeAttribute("value");
      this.progress.setAttribute("aria-label", texts.status.processing);
    } else {
      this.progress.value = share;
      this.progress.setAttribute("aria-label", texts.progress(Math.round(share * 100)));
    }
  }

  /** Shows the text with what is there of the pictures; does nothing where nothing changed, so that nothing flickers. */
  showText(dream: Dream, expected: readonly ExpectedPicture[]): void {
    const key = JSON.stringify([dream.content, dream.images, expected]);
    if (key === this.shownText) return;
    this.shownText = key;
    if (expected.length > 0) showExpectedText(this.text, dream.content, expected);
    else showDreamText(this.text, dream.title, dream.content, dream.images);
  }

  /** Shows where the connection is; `null`: the card is not live, and says nothing of it. */
  showConnection(status: ConnectionStatus | null): void {
    clearInterval(this.countdown);
    this.connection.hidden = status === null;
    this.reconnect.hidden = status?.state !== ConnectionState.Waiting || status.isServerPause;
    if (status === null) return;
    this.connection.dataset["state"] = status.state;
    const show = (): void => {
      const seconds = status.state === ConnectionState.Waiting ? Math.ceil((status.retryAtMs - Date.now()) / 1_000) : 0;
      this.connectionText.textContent = texts.connection(status, seconds);
    };
    show();
    if (status.state === ConnectionState.Waiting) this.countdown = setInterval(show, 1_000);
    this.connection.title = status.state === ConnectionState.Closed ? (status.close?.reason ?? "") : "";
  }

  /** Shows what went wrong with the last action. */
  showProblem(text: string | null): void {
    this.problem.textContent = text ?? "";
    this.problem.hidden = text === null;
  }

  /** While an action is on its way, no second one is started. */
  showBusy(isBusy: boolean): void {
    this.retry.disabled = isBusy;
    this.remove.disabled = isBusy || this.element.dataset["status"] === "delete_processing";
  }

  private askDelete(isAsking: boolean): void {
    const wasAsking = !this.confirm.hidden;
    this.confirm.hidden = !isAsking;
    this.remove.hidden = isAsking;
    if (isAsking) this.confirm.querySelector("button")?.focus();
    else if (wasAsking) this.remove.focus();
  }
}

/** Ids as people count: pictures get theirs in the order in which they were chosen, but not from 1 for each dream. */
function numbering(ids: readonly Id[]): (id: Id) => number {
  const order = ids.map(Number).sort((left, right) => left - right);
  return (id) => order.indexOf(Number(id)) + 1;
}

/** The server's own message, or ours where a failure came without one. */
function messageOf(status: ImagesStatus): string | null {
  const message = texts.serverSentence(status.message ?? "");
  switch (status.status) {
    case "failed":
      return message ?? texts.failedDefault;
    case "delete_failed":
      return message ?? texts.deleteFailedDefault;
    case "completed":
      return (status.errors ?? []).length === 0 ? null : (message ?? texts.partlyFailed);
    case "processing":
    case "delete_processing":
    case "delete_completed":
      return null;
  }
}

function dateText(createdAt: string): string {
  const date = new Date(createdAt);
  if (Number.isNaN(date.getTime())) return createdAt;
  return new Intl.DateTimeFormat(texts.language, { dateStyle: "medium", timeStyle: "short" }).format(date);
}
