/**
 * Vue 3: follow a dream's images in a component or an effect scope.
 *
 * ```ts
 * const { images, isBusy, message } = useDreamImages({ dreamId: () => props.id, token: () => auth.accessToken() });
 * ```
 */

import {
  computed,
  getCurrentInstance,
  onMounted,
  onScopeDispose,
  shallowRef,
  toValue,
  watch,
  type ComputedRef,
  type MaybeRefOrGetter,
} from "vue";
import type { DreamImagesOptions } from "./dream-images.js";
import { DreamImagesStore, INITIAL_STATE, type DreamImagesState } from "./dream-images-store.js";
import type { Id } from "./wire/frame.js";

export type { DreamImagesState, ImageProgress } from "./dream-images-store.js";

/** As for a `DreamImagesSocket`; the dream may change, and `null` is no dream yet. */
export interface UseDreamImagesOptions extends Omit<DreamImagesOptions, "dreamId" | "path"> {
  readonly dreamId: MaybeRefOrGetter<Id | null>;
  readonly path?: MaybeRefOrGetter<string | undefined>;
}

/** The state, field by field, and what can be asked for. */
export type DreamImagesRefs = { readonly [K in keyof DreamImagesState]: ComputedRef<DreamImagesState[K]> } & {
  /** Asks for the latest state. `false` unless open. */
  readonly requestStatus: () => boolean;
  /** Skips the current reconnect pause, unless the server asked for it. */
  readonly reconnectNow: () => void;
};

/** Follows the dream until the scope ends: in a component from being mounted, elsewhere from now on. */
export function useDreamImages(options: UseDreamImagesOptions): DreamImagesRefs {
  const { dreamId, path, ...rest } = options;
  const state = shallowRef(INITIAL_STATE);
  let store: DreamImagesStore | null = null;
  let stop = (): void => undefined;

  const follow = (id: string | null, socketPath: string | undefined): void => {
    stop();
    stop = () => undefined;
    state.value = INITIAL_STATE;
    store = null;
    if (id === null) return;
    store = new DreamImagesStore({ ...rest, dreamId: id, ...(socketPath !== undefined && { path: socketPath }) });
    stop = store.subscribe((next) => {
      state.value = next;
    });
    state.value = store.state();
  };
  const start = (): void => {
    watch(
      [() => idText(toValue(dreamId)), () => toValue(path)] as const,
      ([id, socketPath]) => follow(id, socketPath),
      { immediate: true, flush: "sync" },
    );
  };
  // A server that renders components never mounts them, and must not connect.
  if (getCurrentInstance() === null) start();
  else onMounted(start);
  onScopeDispose(() => stop());

  return {
    connection: computed(() => state.value.connection),
    status: computed(() => state.value.status),
    images: computed(() => state.value.images),
    errors: computed(() => state.value.errors),
    message: computed(() => state.value.message),
    progress: computed(() => state.value.progress),
    isBusy: computed(() => state.value.isBusy),
    requestStatus: () => store?.requestStatus() ?? false,
    reconnectNow: () => store?.reconnectNow(),
  };
}

/** 5 and "5" are one dream: no reason to reconnect. */
function idText(id: Id | null): string | null {
  return id === null ? null : String(id);
}
