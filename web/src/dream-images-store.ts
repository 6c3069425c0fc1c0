/** One dream's images as a store: the state that the React hook and the Vue composable show. */

import { ConnectionState, type ConnectionStatus } from "./connection-types.js";
import { DreamImagesSocket, isSettled, type DreamImagesOptions } from "./dream-images.js";
import { Emitter } from "./emitter.js";
import type { DreamImage, ImageError, ImageStatus, ImageUpdateFrame } from "./wire/dream.js";

/** How far one picture is. */
export interface ImageProgress {
  readonly done: number;
  readonly total: number;
}

/** The state of one dream's images. A new object at every change, so that it may be compared by identity. */
export interface DreamImagesState {
  readonly connection: ConnectionStatus;
  /** `null` until the server has told. */
  readonly status: ImageStatus | null;
  /** The finished pictures; while failed ones are processed again, those that were there stay. */
  readonly images: readonly DreamImage[];
  readonly errors: readonly ImageError[];
  /** The server's sentence, where it has one. */
  readonly message: string | null;
  /** By picture id, as a string; empty unless `hasProgress` and processing. */
  readonly progress: ReadonlyMap<string, ImageProgress>;
  /** True while something is under way: show a placeholder. */
  readonly isBusy: boolean;
}

/** What is known before anything is known. */
export const INITIAL_STATE: DreamImagesState = {
  connection: { state: ConnectionState.Idle },
  status: null,
  images: [],
  errors: [],
  message: null,
  progress: new Map(),
  isBusy: false,
};

/** Follows a dream for as long as somebody is subscribed, with one connection for all subscribers. */
export class DreamImagesStore {
  private readonly socket: DreamImagesSocket;
  private readonly changes = new Emitter<DreamImagesState>();
  private current = INITIAL_STATE;
  private subscribers = 0;

  constructor(options: DreamImagesOptions) {
    this.socket = new DreamImagesSocket(options);
    this.socket.onStatus((connection) => this.become({ connection }));
    this.socket.onUpdate((update) => this.become(stateAfter(this.current, update)));
    this.socket.onProgress(({ image_id, done, total }) => {
      if (this.current.status !== "processing") return;
      this.become({ progress: new Map(this.current.progress).set(String(image_id), { done, total }) });
    });
  }

  /** The state now. Bound, so that it can be handed on as a function. */
  readonly state = (): DreamImagesState => this.current;

  /** Fires at every change. The first subscriber connects, the last one to leave closes. Bound. Returns its undo. */
  readonly subscribe = (listener: (state: DreamImagesState) => void): (() => void) => {
    const undo = this.changes.on(listener);
    this.subscribers += 1;
    if (this.subscribers === 1) this.socket.connect();
    let isOver = false;
    return () => {
      if (isOver) return;
      isOver = true;
      undo();
      this.subscribers -= 1;
      if (this.subscribers === 0) this.socket.close();
    };
  };

  /** Asks for the latest state. `false` unless open. */
  readonly requestStatus = (): boolean => this.socket.requestStatus();

  /** Skips the current reconnect pause, unless the server asked for it. */
  readonly reconnectNow = (): void => this.socket.reconnectNow();

  private become(change: Partial<DreamImagesState>): void {
    this.current = { ...this.current, ...change };
    this.changes.emit(this.current);
  }
}

function stateAfter(state: DreamImagesState, update: ImageUpdateFrame): Partial<DreamImagesState> {
  const { status } = update;
  const isOutcome = status === "completed" || status === "failed";
  return {
    status,
    // Only an outcome says which pictures there are.
    images: isOutcome ? update.images : state.images,
    errors: update.errors ?? [],
    message: update.message ?? null,
    progress: status === "processing" ? state.progress : new Map(),
    isBusy: !isSettled(update),
  };
}
