/** The channels that come to every user by themselves. */

/** Those that all users share. `alerts` is one of them; the others stand for kinds of event on the user's own channel, too. */
export const IMPLICIT: ReadonlySet<string> = new Set(["notifications", "alerts", "orders", "materials"]);

/** True for `user_7`: what is meant for one user. */
export function isOwnChannel(channel: string): boolean {
  return channel.startsWith("user_");
}
