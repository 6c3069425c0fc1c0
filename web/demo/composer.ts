/** The form for a new dream: text, photos, upload. */

import { ApiError, type Dream, type DreamsApi, type UploadProgress } from "../src/index.js";
import { announce, byId, showText } from "./dom.js";
import { showExpectedText, type ExpectedPicture } from "./dream-text.js";
import { caretAt, hasFiles } from "./file-drop.js";
import { Photos } from "./photos.js";
import { photoIndex, problemText } from "./problem-text.js";
import { loadDraft, loadDraftOwner, saveDraft, saveDraftOwner } from "./storage.js";
import { texts } from "./texts.js";

/** A pause in typing after which the draft is kept. */
const DRAFT_PAUSE_MS = 300;

/** The form. `onSaved` fires once the server has the dream, with where its pictures will be. */
export class Composer {
  private readonly form = byId("compose", HTMLFormElement);
  private readonly title = byId("title", HTMLInputElement);
  private readonly content = byId("content", HTMLTextAreaElement);
  private readonly files = byId("files", HTMLInputElement);
  private readonly submitButton = byId("submit", HTMLButtonElement);
  private readonly formError = byId("form-error", HTMLElement);
  private readonly note = byId("draft-note", HTMLElement);
  private readonly upload = byId("upload", HTMLElement);
  private readonly progress = byId("upload-progress", HTMLProgressElement);
  private readonly progressText = byId("upload-text", HTMLElement);
  private readonly preview = byId("preview", HTMLElement);
  private readonly previewText = byId("preview-text", HTMLElement);
  private readonly photos = new Photos(
    () => this.content.selectionStart,
    () => this.showPreview(),
  );
  private draftTimer: ReturnType<typeof setTimeout> | undefined;
  private sending: AbortController | null = null;
  private owner: string | null = null;

  constructor(
    private readonly api: DreamsApi,
    private readonly onSaved: (dream: Dream, expected: readonly ExpectedPicture[]) => void,
  ) {
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.submit();
    });
    this.title.addEventListener("input", () => this.edited());
    this.content.addEventListener("input", () => this.edited());
    this.files.addEventListener("change", () => {
      // The dialog may have been opened before the upload began.
      if (this.sending === null) this.photos.add([...(this.files.files ?? [])]);
      // The same file may be chosen again.
      this.files.value = "";
    });
    this.content.addEventListener("paste", (event) => {
      const files = [...(event.clipboardData?.files ?? [])];
      if (files.length > 0) {
        event.preventDefault();
        if (this.sending === null) this.photos.add(files);
      }
    });
    byId("cancel-upload", HTMLButtonElement).addEventListener("click", () => this.cancel());
    this.acceptDrops();
  }

  /** Brings back the draft of who has signed in. Somebody else's is thrown away: it is not theirs to see. */
  open(owner: string): void {
    if (owner === this.owner) return;
    const isTheirs = [null, owner].includes(this.owner ?? loadDraftOwner());
    this.owner = owner;
    saveDraftOwner(owner);
    if (!isTheirs) {
      this.reset();
      return;
    }
    const draft = loadDraft();
    this.title.value = draft.title;
    this.content.value = draft.content;
    void this.photos.restore(draft.content);
  }

  /** Ends an upload that is under way, as when signing out: whoever signs in next is not shown its dream. */
  cancel(): void {
    this.sending?.abort();
  }

  private edited(): void {
    this.photos.follow(this.content.value);
    this.showPreview();
    clearTimeout(this.draftTimer);
    this.draftTimer = setTimeout(() => this.keepDraft(), DRAFT_PAUSE_MS);
  }

  private keepDraft(): void {
    this.photos.keep();
    const draft = { title: this.title.value, content: this.content.value };
    const isKept = saveDraft(draft);
    const isEmpty = draft.title === "" && draft.content === "";
    this.note.textContent = isKept && !isEmpty ? texts.draftSaved : "";
  }

  /** Photos may be dropped anywhere on the page; over the text they go where they are dropped. */
  private acceptDrops(): void {
    window.addEventListener("dragover", (event) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      this.form.classList.toggle("is-target", !this.isHidden);
    });
    window.addEventListener("dragleave", (event) => {
      if (event.relatedTarget === null) this.form.classList.remove("is-target");
    });
    window.addEventListener("drop", (event) => {
      if (!hasFiles(event)) return;
      // Without this the browser would leave the page to show the photo.
      event.preventDefault();
      this.form.classList.remove("is-target");
      if (this.isHidden || this.sending !== null) return;
      this.photos.add([...(event.dataTransfer?.files ?? [])], caretAt(this.content, event.clientX, event.clientY));
    });
  }

  private get isHidden(): boolean {
    return this.form.offsetParent === null;
  }

  private showPreview(): void {
    this.preview.hidden = this.photos.count === 0;
    if (!this.preview.hidden) showExpectedText(this.previewText, this.content.value, this.photos.expected);
  }

  private async submit(): Promise<void> {
    if (this.sending !== null) return;
    this.clearErrors();
    if (this.title.value.trim() === "") {
      // Known before anything is uploaded; the server says the same.
      this.showError(new ApiError(400, "missing_title", "", { title: texts.problems.titleMissing }));
      return;
    }
    const sending = new AbortController();
    this.sending = sending;
    const expected = this.photos.expected;
    this.showSending(true);
    const sent = await this.api
      .create(
        { title: this.title.value, content: this.content.value, images: this.photos.images },
        { signal: sending.signal, onProgress: (progress) => this.showProgress(progress) },
      )
      .then(
        (dream) => ({ dream }),
        (error: unknown) => ({ error }),
      );
    this.sending = null;
    this.showSending(false);
    // Whatever came of it: the answer may have been there, and its sender gone.
    if (sending.signal.aborted) {
      announce(texts.uploadCancelled);
    } else if ("dream" in sent) {
      // The form is small again before anybody scrolls to the dream.
      this.reset();
      announce(texts.saved(sent.dream.title));
      this.onSaved(sent.dream, expected);
    } else {
      this.showError(sent.error);
    }
  }

  private reset(): void {
    this.title.value = "";
    this.content.value = "";
    this.photos.clear();
    clearTimeout(this.draftTimer);
    this.keepDraft();
  }

  private showSending(isSending: boolean): void {
    this.form.setAttribute("aria-busy", String(isSending));
    this.upload.hidden = !isSending;
    this.submitButton.disabled = isSending;
    this.files.disabled = isSending;
    this.title.readOnly = isSending;
    this.content.readOnly = isSending;
    byId("photos", HTMLElement).inert = isSending;
    if (isSending) this.showProgress({ sentBytes: 0, totalBytes: 0 });
  }

  private showProgress({ sentBytes, totalBytes }: UploadProgress): void {
    const percent = totalBytes > 0 ? Math.floor((100 * sentBytes) / totalBytes) : 0;
    this.progress.value = percent;
    const isSent = totalBytes > 0 && sentBytes >= totalBytes;
    this.progressText.textContent = isSent ? texts.storing : texts.uploading(percent);
  }

  private showError(error: unknown): void {
    showText(this.formError, problemText(error));
    const fields = error instanceof ApiError ? error.fields : {};
    this.markField(this.title, "title-error", fields["title"]);
    this.markField(this.content, "content-error", fields["content"]);
    const photos = Object.entries(fields).flatMap(([field, text]) => {
      const index = photoIndex(field);
      return index === null ? [] : [[index, text] as const];
    });
    this.photos.mark(new Map(photos));
    const wrong = [this.title, this.content].find((input) => input.ariaInvalid === "true");
    (wrong ?? this.formError).focus();
  }

  private markField(input: HTMLInputElement | HTMLTextAreaElement, lineId: string, text: string | undefined): void {
    showText(byId(lineId, HTMLElement), text ?? null);
    if (text === undefined) {
      input.removeAttribute("aria-invalid");
      input.removeAttribute("aria-describedby");
    } else {
      input.setAttribute("aria-invalid", "true");
      input.setAttribute("aria-describedby", lineId);
    }
  }

  private clearErrors(): void {
    showText(this.formError, null);
    this.markField(this.title, "title-error", undefined);
    this.markField(this.content, "content-error", undefined);
    this.photos.mark(null);
  }
}
