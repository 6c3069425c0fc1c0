/** The class under which earlier front ends followed a dream, on top of {@link DreamImagesSocket}. */

import type { ConnectionOptions } from "./connection-types.js";
import { DreamImagesSocket } from "./dream-images.js";
import type { TokenSource } from "./token.js";
import type { ImageUpdateFrame } from "./wire/dream.js";
import type { Id } from "./wire/frame.js";

/** `new DreamImageWebSocketClient(dreamId, token, handleImageUpdate).connect()`; new code takes `DreamImagesSocket`. */
export class DreamImageWebSocketClient {
  private readonly socket: DreamImagesSocket;

  constructor(
    dreamId: Id,
    token: TokenSource,
    onImageUpdate: (update: ImageUpdateFrame) => void,
    options: Omit<ConnectionOptions, "token"> = {},
  ) {
    this.socket = new DreamImagesSocket({ ...options, dreamId, token });
    this.socket.onUpdate(onImageUpdate);
  }

  /** Starts; harmless when started already. */
  connect(): void {
    this.socket.connect();
  }

  /** Ends the connection for good. */
  disconnect(): void {
    this.socket.close();
  }
}
