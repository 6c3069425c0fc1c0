/** One dream of the journal: its text with pictures, its live state, and what can be done with it. */

import {
  ApiError,
  ConnectionState,
  DreamImagesSocket,
  isLive,
  isSettled,
  type Dream,
  type DreamsApi,
  type ImageProgressFrame,
  type ImageStatus,
  type ImageUpdateFrame,
  type TokenProvider,
} from "../src/index.js";
import { CardView } from "./card-view.js";
import { announce } from "./dom.js";
import type { ExpectedPicture } from "./dream-text.js";
import { problemText } from "./problem-text.js";
import { loadPending, savePending } from "./storage.js";
import { texts } from "./texts.js";

/** While something is under way and no socket is live, REST is asked this often. */
const POLL_MS = 5_000;
/** An action waits this long for the socket, so that its first events are seen too; then it goes ahead without. */
const OPEN_PATIENCE_MS = 3_000;
/** A deleted dream says so before it goes. */
const FAREWELL_MS = 1_600;

/** What a card needs from the page. */
export interface CardServices {
  readonly api: DreamsApi;
  readonly token: TokenProvider;
  /** The dream is deleted and its card may be taken away. */
  readonly onGone: (card: DreamCard) => void;
  /** A card that was not live wants to be. */
  readonly onFollow: (card: DreamCard) => void;
}

/** A dream on the page. */
export class DreamCard {
  readonly id: string;
  private readonly view: CardView;
  private socket: DreamImagesSocket | null = null;
  private pollTimer: ReturnType<typeof setInterval> | undefined;
  private readonly progress = new Map<string, ImageProgressFrame>();
  private isDone = false;

  constructor(
    private dream: Dream,
    private readonly services: CardServices,
    private expected: readonly ExpectedPicture[] = loadPending(String(dream.id)),
  ) {
    this.id = String(dream.id);
    this.view = new CardView(dream, {
      onRetry: () => void this.retry(),
      onDelete: () => void this.delete(),
      onReconnect: () => this.socket?.reconnectNow(),
    });
    this.showState();
  }

  get element(): HTMLElement {
    return this.view.element;
  }

  /** True where nothing more happens by itself. */
  get isSettled(): boolean {
    return isSettled(this.dream.images_status);
  }

  get isFollowed(): boolean {
    return this.socket !== null;
  }

  /** Goes live: state changes arrive as they happen. Harmless when live already. */
  follow(): void {
    if (this.socket !== null || this.isDone) return;
    const socket = new DreamImagesSocket({
      dreamId: this.dream.id,
      path: this.dream.images_status.websocket_url,
      token: this.services.token,
      hasProgress: true,
    });
    this.socket = socket;
    socket.onStatus((status) => this.view.showConnection(status));
    socket.onUpdate((update) => this.receive(update));
    socket.onProgress((progress) => this.receiveProgress(progress));
    socket.connect();
    this.pollTimer = setInterval(() => void this.poll(), POLL_MS);
  }

  /** Stops following. */
  unfollow(): void {
    clearInterval(this.pollTimer);
    this.socket?.close();
    this.socket = null;
    this.view.showConnection(null);
  }

  private receive(update: ImageUpdateFrame): void {
    const before = this.dream.images_status.status;
    const { status, images, message = null, errors = null, version = null } = update;
    this.dream = {
      ...this.dream,
      // Only `completed` and `failed` say which pictures there are; others leave what is shown.
      images: status === "completed" || status === "failed" ? images : this.dream.images,
      images_status: { ...this.dream.images_status, status, images, message, errors, version },
    };
    this.changed(before);
  }

  private changed(before: ImageStatus): void {
    const { status } = this.dream.images_status;
    if (status !== "processing") this.progress.clear();
    if (status === "completed" || status === "delete_completed") this.forgetExpected();
    this.showState();
    if (status !== before) announce(texts.announce[status](this.dream.title));
    if (status === "delete_completed") this.farewell();
  }

  private receiveProgress(progress: ImageProgressFrame): void {
    if (this.dream.images_status.status !== "processing") return;
    this.progress.set(String(progress.image_id), progress);
    const shares = [...this.progress.values()].map(({ done, total }) => (total > 0 ? Math.min(1, done / total) : 0));
    const count = Math.max(shares.length, this.expected.length);
    this.view.showProgress(shares.reduce((sum, share) => sum + share, 0) / count);
  }

  /** Asks REST where no socket tells: behind a proxy without WebSockets, or when the server refused this one. */
  private async poll(): Promise<void> {
    if (this.isSettled || this.socket === null || isLive(this.socket.status)) return;
    try {
      const dream = await this.services.api.get(this.id);
      if (this.isDone || this.socket === null || isLive(this.socket.status) || this.isOutdated(dream)) return;
      const before = this.dream.images_status.status;
      this.dream = dream;
      this.changed(before);
    } catch (error) {
      if (error instanceof ApiError && error.status === 404) this.gone();
    }
  }

  /** A socket that was live while REST was asked may have told what came later. */
  private isOutdated({ images_status: { version } }: Dream): boolean {
    return typeof version === "number" && version < (this.dream.images_status.version ?? 0);
  }

  private async retry(): Promise<void> {
    await this.act(async () => {
      await this.services.api.retryImages(this.id);
      if (this.socket !== null && isLive(this.socket.status)) return;
      // No event tells of it, and REST is asked only while something is under way.
      const before = this.dream.images_status.status;
      this.setStatus("processing");
      this.changed(before);
    });
  }

  private async delete(): Promise<void> {
    await this.act(async () => {
      try {
        await this.services.api.delete(this.id);
      } catch (error) {
        // Somebody else was faster: that is what was wanted.
        if (error instanceof ApiError && error.status === 404) return this.gone();
        throw error;
      }
      const before = this.dream.images_status.status;
      // The event may have come before the answer.
      if (before.startsWith("delete_") && before !== "delete_failed") return;
      this.setStatus("delete_processing");
      this.changed(before);
    });
  }

  private async act(action: () => Promise<void>): Promise<void> {
    this.view.showBusy(true);
    this.view.showProblem(null);
    this.services.onFollow(this);
    await this.whenLive();
    try {
      await action();
    } catch (error) {
      this.view.showProblem(problemText(error));
    } finally {
      this.view.showBusy(false);
    }
  }

  private whenLive(): Promise<void> {
    const { socket } = this;
    if (socket === null || isLive(socket.status)) return Promise.resolve();
    return new Promise((resolve) => {
      const finish = (): void => {
        clearTimeout(timer);
        stop();
        resolve();
      };
      const stop = socket.onStatus(({ state }) => {
        if (state === ConnectionState.Open || state === ConnectionState.Closed) finish();
      });
      const timer = setTimeout(finish, OPEN_PATIENCE_MS);
    });
  }

  private setStatus(status: ImageStatus): void {
    this.dream = { ...this.dream, images_status: { ...this.dream.images_status, status, message: null, errors: [] } };
  }

  private gone(): void {
    if (this.isDone) return;
    const before = this.dream.images_status.status;
    this.setStatus("delete_completed");
    this.changed(before);
  }

  /** The pictures are here, or never will be: what stood for them is let go. */
  private forgetExpected(): void {
    for (const { previewUrl } of this.expected) if (previewUrl != null) URL.revokeObjectURL(previewUrl);
    this.expected = [];
    savePending(this.id, []);
  }

  private farewell(): void {
    if (this.isDone) return;
    this.isDone = true;
    this.unfollow();
    setTimeout(() => this.services.onGone(this), FAREWELL_MS);
  }

  private showState(): void {
    const { status } = this.dream.images_status;
    this.view.showStatus(this.dream.images_status);
    const isWaiting = status === "processing" && this.dream.images.length === 0;
    this.view.showText(this.dream, isWaiting ? this.expected : []);
  }
}

