/** Small things that survive a reload, in localStorage. Storage that is full or forbidden loses comfort, never function. */

import { isArrayOf, isNumber, isObject, isString, parseJson } from "../src/json.js";

const PREFIX = "oneiro.";
/** Dreams whose pending pictures are remembered; more are never in the works at once in one browser. */
const MAX_PENDING = 20;

/** Who is signed in. */
export interface StoredSession {
  readonly token: string;
  readonly name: string;
  /** The development user that the token was made for; `null` for a pasted token. */
  readonly userId: string | null;
}

/** An unfinished text. */
export interface StoredDraft {
  readonly title: string;
  readonly content: string;
}

/** Where a picture will appear, known before the server has it ready. */
export interface PendingPicture {
  readonly position: number;
  /** Pixels, as displayed; 0 where unknown. */
  readonly width: number;
  readonly height: number;
}

export function loadSession(): StoredSession | null {
  const value = load("session");
  if (!isObject(value)) return null;
  const { token, name, userId } = value;
  return isString(token) && isString(name) ? { token, name, userId: isString(userId) ? userId : null } : null;
}

export function saveSession(session: StoredSession | null): void {
  save("session", session);
}

export function loadDraft(): StoredDraft {
  const value = load("draft");
  if (!isObject(value)) return { title: "", content: "" };
  const { title, content } = value;
  return { title: isString(title) ? title : "", content: isString(content) ? content : "" };
}

/** Whose draft is kept; `null` where nobody has begun one. */
export function loadDraftOwner(): string | null {
  const value = load("draft-owner");
  return isString(value) ? value : null;
}

export function saveDraftOwner(owner: string): void {
  save("draft-owner", owner);
}

/** False where it could not be kept. */
export function saveDraft(draft: StoredDraft): boolean {
  return save("draft", draft.title === "" && draft.content === "" ? null : draft);
}

export function loadPending(dreamId: string): readonly PendingPicture[] {
  return pendingEntries().find((entry) => entry.id === dreamId)?.pictures ?? [];
}

export function savePending(dreamId: string, pictures: readonly PendingPicture[]): void {
  const others = pendingEntries().filter((entry) => entry.id !== dreamId);
  const entries = pictures.length === 0 ? others : [{ id: dreamId, pictures }, ...others];
  save("pending", entries.slice(0, MAX_PENDING));
}

interface PendingEntry {
  readonly id: string;
  readonly pictures: readonly PendingPicture[];
}

function pendingEntries(): readonly PendingEntry[] {
  const value = load("pending");
  return isArrayOf(value, isPendingEntry) ? value : [];
}

function isPendingEntry(value: unknown): value is PendingEntry {
  return isObject(value) && isString(value["id"]) && isArrayOf(value["pictures"], isPendingPicture);
}

function isPendingPicture(value: unknown): value is PendingPicture {
  return isObject(value) && isNumber(value["position"]) && isNumber(value["width"]) && isNumber(value["height"]);
}

function load(key: string): unknown {
  try {
    return parseJson(localStorage.getItem(PREFIX + key) ?? "null");
  } catch {
    return null;
  }
}

function save(key: string, value: unknown): boolean {
  try {
    if (value === null) localStorage.removeItem(PREFIX + key);
    else localStorage.setItem(PREFIX + key, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}
