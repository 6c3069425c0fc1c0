/** A list of listeners. A listener that throws neither stops the others nor the connection: the error is reported. */
export class Emitter<T> {
  private readonly listeners = new Set<(value: T) => void>();

  /** Adds `listener`; the returned function takes it away again, and calling that twice is harmless. */
  on(listener: (value: T) => void): () => void {
    // Wrapped, so that adding the same function twice gives two subscriptions with an undo each.
    const entry = (value: T): void => listener(value);
    this.listeners.add(entry);
    return () => {
      this.listeners.delete(entry);
    };
  }

  /** Calls every listener with `value`. Listeners added meanwhile are first called for the next value. */
  emit(value: T): void {
    for (const listener of [...this.listeners]) {
      try {
        listener(value);
      } catch (error) {
        // Thrown again outside of our call stack: it reaches the page's error reporting like any uncaught error.
        queueMicrotask(() => {
          throw error;
        });
      }
    }
  }
}
