/** Who is signed in: the token, where it comes from, and getting a new one. */

import { ApiError, type TokenRequest } from "../src/index.js";
import { errorOfAnswer } from "../src/api-error.js";
import { isObject, isString, parseJson } from "../src/json.js";
import { bareToken } from "../src/token.js";
import { loadSession, saveSession, type StoredSession } from "./storage.js";

const DEV_TOKEN_PATH = "/api/dev/token";

/** The session of this browser; at most one. */
export class Session {
  private current: StoredSession | null = loadSession();
  private refreshing: Promise<string | null> | null = null;

  /** `onLost` is called once when a token is refused and no other can be had. */
  constructor(private readonly onLost: () => void) {}

  get isSignedIn(): boolean {
    return this.current !== null;
  }

  get name(): string {
    return this.current?.name ?? "";
  }

  /** Tells one who signs in from another. */
  get owner(): string {
    return this.current?.userId ?? this.name;
  }

  /** The token provider of every request and socket of the page. */
  readonly token = (request: TokenRequest): Promise<string | null> => {
    if (this.current === null) return Promise.resolve(null);
    if (!request.isRefresh) return Promise.resolve(this.current.token);
    // Many sockets lose the same token at once: they share one refresh.
    this.refreshing ??= this.refresh().finally(() => {
      this.refreshing = null;
    });
    return this.refreshing;
  };

  /** Signs in as a development user. Throws an `ApiError`, with status 404 where the server gives out no such tokens. */
  async signInAs(userId: string, username: string): Promise<void> {
    const token = await fetchDevToken(userId, username);
    this.become({ token, userId, name: username === "" ? `user${userId}` : username });
  }

  /** Signs in with a token from elsewhere. Throws an `ApiError` where the server refuses it. */
  async signInWith(token: string): Promise<void> {
    const bare = bareToken(token);
    await ask("/api/dreams/?limit=1", { headers: { Authorization: `Bearer ${bare}` } });
    this.become({ token: bare, userId: null, name: nameInToken(bare) });
  }

  signOut(): void {
    this.become(null);
  }

  private async refresh(): Promise<string | null> {
    const before = this.current;
    if (before?.userId != null) {
      try {
        const token = await fetchDevToken(before.userId, before.name);
        if (this.current === before) this.become({ ...before, token });
        return token;
      } catch (error) {
        // Without an answer it is too early to sign anybody out: the caller tries again.
        if (!(error instanceof ApiError) || error.status === 0 || error.status >= 500) throw error;
      }
    }
    if (this.current === before && before !== null) {
      this.become(null);
      this.onLost();
    }
    return null;
  }

  private become(session: StoredSession | null): void {
    this.current = session;
    saveSession(session);
  }
}

/** Whether this server gives out development tokens; true also where it cannot be asked, as signing in will tell. */
export async function hasDevTokens(): Promise<boolean> {
  try {
    return (await fetch(DEV_TOKEN_PATH)).status !== 404;
  } catch {
    return true;
  }
}

async function fetchDevToken(userId: string, username: string): Promise<string> {
  const isNumeric = /^\d{1,15}$/.test(userId);
  const answer = await ask(DEV_TOKEN_PATH, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ user_id: isNumeric ? Number(userId) : userId, ...(username !== "" && { username }) }),
  });
  const json = parseJson(answer);
  if (isObject(json) && isString(json["token"])) return json["token"];
  throw new ApiError(200, "bad_answer", "the server's answer holds no token");
}

async function ask(path: string, init: RequestInit): Promise<string> {
  let answer: Response;
  try {
    answer = await fetch(path, init);
  } catch {
    throw new ApiError(0, "network", "the server could not be reached");
  }
  const body = await answer.text();
  if (!answer.ok) throw errorOfAnswer(answer.status, body, answer.headers.get("Retry-After"));
  return body;
}

/** The name inside a JWT, for showing only: the server alone checks tokens. */
function nameInToken(token: string): string {
  const [, payload = ""] = token.split(".");
  try {
    const bytes = Uint8Array.from(atob(payload.replace(/-/g, "+").replace(/_/g, "/")), (c) => c.charCodeAt(0));
    const claims = parseJson(new TextDecoder().decode(bytes));
    if (!isObject(claims)) return "";
    const { username, user_id, sub } = claims;
    return String(username ?? user_id ?? sub ?? "");
  } catch {
    return "";
  }
}
