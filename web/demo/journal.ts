/** The list of one's own dreams. */

import type { Dream, DreamsApi, TokenProvider } from "../src/index.js";
import { byId, showText } from "./dom.js";
import { DreamCard } from "./dream-card.js";
import type { ExpectedPicture } from "./dream-text.js";
import { problemText } from "./problem-text.js";
import { savePending } from "./storage.js";

const PAGE_SIZE = 10;
/** The newest dreams are followed even when settled: somebody may have their pictures processed again. */
const FOLLOWED_NEWEST = 3;
/** Sockets that one page keeps for settled dreams; those at work come on top. */
const MAX_SETTLED_SOCKETS = 6;

/** The journal; empty until {@link load}. */
export class Journal {
  private cards: DreamCard[] = [];
  private next: string | null = null;
  private readonly list = byId("dreams", HTMLElement);
  private readonly empty = byId("journal-empty", HTMLElement);
  private readonly error = byId("journal-error", HTMLElement);
  private readonly more = byId("load-more", HTMLButtonElement);
  /** Grows when the journal is emptied, so that a late answer of the last user is not shown to the next. */
  private generation = 0;

  constructor(
    private readonly api: DreamsApi,
    private readonly token: TokenProvider,
  ) {
    this.more.addEventListener("click", () => void this.loadPage());
  }

  /** Shows the newest dreams instead of what was shown. */
  async load(): Promise<void> {
    this.clear();
    await this.loadPage();
  }

  /** Forgets everything, as when signing out. */
  clear(): void {
    this.generation += 1;
    for (const card of this.cards) card.unfollow();
    this.cards = [];
    this.next = null;
    this.list.replaceChildren();
    this.more.hidden = true;
    this.empty.hidden = true;
    showText(this.error, null);
  }

  /** Puts a dream that was just saved on top and follows it. */
  add(dream: Dream, expected: readonly ExpectedPicture[]): void {
    const pictures = expected.map(({ position, width, height }) => ({ position, width, height }));
    savePending(String(dream.id), pictures);
    const card = this.makeCard(dream, expected);
    this.cards.unshift(card);
    this.list.prepend(card.element);
    this.empty.hidden = true;
    this.follow(card);
    card.element.classList.add("is-new");
    // On a phone the journal is below the form; on a wide screen the new card is in view and nothing should jump.
    const { top } = card.element.getBoundingClientRect();
    if (top < 0 || top > window.innerHeight * 0.6) card.element.scrollIntoView({ block: "start", behavior: "smooth" });
  }

  private async loadPage(): Promise<void> {
    const { generation } = this;
    this.more.disabled = true;
    this.list.setAttribute("aria-busy", "true");
    showText(this.error, null);
    try {
      const page = await this.api.list({ limit: PAGE_SIZE, cursor: this.next });
      if (generation !== this.generation) return;
      const known = new Set(this.cards.map((card) => card.id));
      for (const dream of page.results) {
        if (!known.has(String(dream.id))) this.append(dream);
      }
      this.next = page.next;
      this.more.hidden = page.next === null;
      this.empty.hidden = this.cards.length > 0;
    } catch (error) {
      if (generation !== this.generation) return;
      showText(this.error, problemText(error));
      // The same button tries again, whether it was the first page or a later one.
      this.more.hidden = false;
    } finally {
      this.more.disabled = false;
      this.list.setAttribute("aria-busy", "false");
    }
  }

  private append(dream: Dream): void {
    const card = this.makeCard(dream);
    this.cards.push(card);
    this.list.append(card.element);
    if (!card.isSettled || this.cards.length <= FOLLOWED_NEWEST) this.follow(card);
  }

  private makeCard(dream: Dream, expected?: readonly ExpectedPicture[]): DreamCard {
    const services = {
      api: this.api,
      token: this.token,
      onGone: (card: DreamCard) => this.drop(card),
      onFollow: (card: DreamCard) => this.follow(card),
    };
    return expected === undefined ? new DreamCard(dream, services) : new DreamCard(dream, services, expected);
  }

  private follow(card: DreamCard): void {
    const settled = this.cards.filter((other) => other !== card && other.isFollowed && other.isSettled);
    for (const other of settled.slice(MAX_SETTLED_SOCKETS - 1)) other.unfollow();
    card.follow();
  }

  private drop(card: DreamCard): void {
    const hadFocus = card.element.contains(document.activeElement);
    this.cards = this.cards.filter((other) => other !== card);
    card.element.remove();
    this.empty.hidden = this.cards.length > 0;
    if (hadFocus) byId("main", HTMLElement).focus();
  }
}
