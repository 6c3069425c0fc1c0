/**
 * React: follow a dream's images in a component.
 *
 * ```tsx
 * const { images, isBusy, message } = useDreamImages({ dreamId: dream.id, token: () => auth.accessToken() });
 * return isBusy ? <Spinner /> : <Markdown text={insertImages(dream.content, images)} />;
 * ```
 */

import { useEffect, useMemo, useRef, useSyncExternalStore } from "react";
import type { DreamImagesOptions } from "./dream-images.js";
import { DreamImagesStore, INITIAL_STATE, type DreamImagesState } from "./dream-images-store.js";
import { fetchToken } from "./token.js";
import type { Id } from "./wire/frame.js";

export type { DreamImagesState, ImageProgress } from "./dream-images-store.js";

/** As for a `DreamImagesSocket`; no dream yet is `null`. */
export interface UseDreamImagesOptions extends Omit<DreamImagesOptions, "dreamId"> {
  readonly dreamId: Id | null;
}

/** The state, and what can be asked for. */
export interface DreamImagesResult extends DreamImagesState {
  /** Asks for the latest state. `false` unless open. */
  readonly requestStatus: () => boolean;
  /** Skips the current reconnect pause, unless the server asked for it. */
  readonly reconnectNow: () => void;
}

const NOTHING = {
  subscribe: () => () => undefined,
  state: () => INITIAL_STATE,
  requestStatus: () => false,
  reconnectNow: () => undefined,
};

/**
 * Follows the dream while the component is mounted. Another `dreamId`, `origin` or `path` starts anew; a new `token`
 * function is used from the next time one is needed, and other options count from the first render.
 */
export function useDreamImages(options: UseDreamImagesOptions): DreamImagesResult {
  const latest = useRef(options);
  useEffect(() => {
    latest.current = options;
  });
  const { dreamId, origin, path } = options;
  const key = dreamId === null ? null : String(dreamId);
  const store = useMemo(() => {
    if (key === null) return NOTHING;
    const { current } = latest;
    return new DreamImagesStore({
      ...current,
      dreamId: key,
      ...(origin !== undefined && { origin }),
      ...(path !== undefined && { path }),
      token: (request) => fetchToken(latest.current.token, request),
    });
  }, [key, origin, path]);
  const state = useSyncExternalStore(store.subscribe, store.state, store.state);
  return useMemo(
    () => ({ ...state, requestStatus: store.requestStatus, reconnectNow: store.reconnectNow }),
    [state, store],
  );
}
