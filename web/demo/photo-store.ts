/**
 * The draft's photos in IndexedDB, so that a reload does not lose them: localStorage holds no files.
 * One object store, one record, replaced as a whole; every failure means only that photos have to be chosen again.
 */

const DATABASE = "oneiro";
const STORE = "draft";
const RECORD = "photos";

/** A photo of the draft with its place. */
export interface StoredPhoto {
  readonly file: File;
  readonly position: number;
}

/** Writes are done in order, and only the newest of those waiting: a slider fires many changes a second. */
let writing: Promise<void> | null = null;
let waiting: readonly StoredPhoto[] | null = null;

/** Keeps `photos` instead of those kept before. */
export function savePhotos(photos: readonly StoredPhoto[]): void {
  waiting = photos;
  writing ??= drain().finally(() => {
    writing = null;
  });
}

async function drain(): Promise<void> {
  while (waiting !== null) {
    const photos = waiting;
    waiting = null;
    await write(photos).catch(() => undefined);
  }
}

/** The photos kept; none where there is no storage. */
export async function loadPhotos(): Promise<readonly StoredPhoto[]> {
  try {
    const database = await open();
    const stored = await settled(database.transaction(STORE).objectStore(STORE).get(RECORD) as IDBRequest<unknown>);
    database.close();
    return Array.isArray(stored) ? stored.filter(isStoredPhoto) : [];
  } catch {
    return [];
  }
}

async function write(photos: readonly StoredPhoto[]): Promise<void> {
  const database = await open();
  const store = database.transaction(STORE, "readwrite").objectStore(STORE);
  if (photos.length === 0) await settled(store.delete(RECORD));
  else await settled(store.put(photos, RECORD));
  database.close();
}

function open(): Promise<IDBDatabase> {
  const request = indexedDB.open(DATABASE, 1);
  request.onupgradeneeded = () => request.result.createObjectStore(STORE);
  return settled(request);
}

function settled<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error ?? new Error("the database refused"));
  });
}

function isStoredPhoto(value: unknown): value is StoredPhoto {
  const photo = value as Partial<StoredPhoto> | null;
  return typeof photo === "object" && photo?.file instanceof File && typeof photo.position === "number";
}
