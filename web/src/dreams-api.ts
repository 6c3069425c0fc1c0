/** The dreams REST API: create with photos, list, read, change, delete, retry. */

import { ApiError } from "./api-error.js";
import { request, type HttpOptions, type RequestOptions } from "./http.js";
import { isArrayOf, isId, isMissingOr, isNumber, isObject, isString } from "./json.js";
import {
  IMAGE_STATUSES,
  isDreamImage,
  isImageError,
  type DreamImage,
  type ImageError,
  type ImageStatus,
} from "./wire/dream.js";
import { multipartBody, type FormField } from "./multipart.js";
import type { Id } from "./wire/frame.js";

/** The state of a dream's images as REST tells it; the socket tells the same live. */
export interface ImagesStatus {
  readonly status: ImageStatus;
  /** The path of the dream's socket. */
  readonly websocket_url: string;
  readonly images: readonly DreamImage[];
  readonly message?: string | null;
  readonly errors?: readonly ImageError[] | null;
  readonly version?: number | null;
}

/** A dream as the server keeps it. */
export interface Dream {
  readonly id: Id;
  readonly title: string;
  readonly content: string;
  readonly categories: readonly string[];
  readonly theme_tags: readonly string[];
  readonly character_tags: readonly string[];
  readonly location_tags: readonly string[];
  readonly images: readonly DreamImage[];
  readonly images_status: ImagesStatus;
  /** ISO 8601 without a zone, in the server's local time. */
  readonly created_at: string;
}

/** Tags by kind, as they are written. */
export interface DreamTags {
  readonly theme: readonly string[];
  readonly character: readonly string[];
  readonly location: readonly string[];
}

/** A photo to upload. */
export interface NewImage {
  readonly file: Blob;
  /** Default: the file's own name, where it has one. */
  readonly name?: string;
  /** In UTF-16 code units of the content; absent: at its end. */
  readonly position?: number;
}

/** A dream to create. */
export interface NewDream {
  readonly title: string;
  readonly content: string;
  readonly categories?: readonly string[];
  readonly tags?: DreamTags;
  readonly images?: readonly NewImage[];
}

/** Changes to a dream's words; what is absent stays. */
export interface DreamChanges {
  readonly title?: string;
  readonly content?: string;
  readonly categories?: readonly string[];
  readonly tags?: DreamTags;
}

/** One page of a list. */
export interface DreamPage {
  readonly results: readonly Dream[];
  /** Pass it to the next call; `null` at the end. */
  readonly next: string | null;
}

/** Calls to the dreams API. Every call throws an `ApiError` where it does not succeed. */
export interface DreamsApi {
  /** Stores a dream and its photos; resolves as soon as the server has both durably, before any photo is processed. */
  create(dream: NewDream, options?: RequestOptions): Promise<Dream>;
  /** Own dreams, newest first; `limit` 1 to 100. */
  list(page?: { readonly limit?: number; readonly cursor?: string | null }, options?: RequestOptions): Promise<DreamPage>;
  get(id: Id, options?: RequestOptions): Promise<Dream>;
  change(id: Id, changes: DreamChanges, options?: RequestOptions): Promise<Dream>;
  /** Starts the deletion; the dream's socket tells when it is done. */
  delete(id: Id, options?: RequestOptions): Promise<void>;
  addImages(id: Id, images: readonly NewImage[], options?: RequestOptions): Promise<void>;
  deleteImage(id: Id, imageId: Id, options?: RequestOptions): Promise<void>;
  /** Processes the failed photos again; code 409 where none failed. */
  retryImages(id: Id, options?: RequestOptions): Promise<void>;
}

/** The API at `http.origin`, asked with `http.token`. */
export function createDreamsApi(http: HttpOptions): DreamsApi {
  const dreamPath = (id: Id): string => `/api/dreams/${encodeURIComponent(String(id))}/`;
  return {
    async create(dream, options) {
      return asDream(await request(http, "POST", "/api/dreams/", dreamForm(dream), options));
    },
    async list(page = {}, options) {
      const query = new URLSearchParams();
      if (page.limit !== undefined) query.set("limit", String(page.limit));
      if (isString(page.cursor)) query.set("cursor", page.cursor);
      const suffix = query.size === 0 ? "" : `?${query.toString()}`;
      return asDreamPage(await request(http, "GET", `/api/dreams/${suffix}`, null, options));
    },
    async get(id, options) {
      return asDream(await request(http, "GET", dreamPath(id), null, options));
    },
    async change(id, changes, options) {
      return asDream(await request(http, "PATCH", dreamPath(id), changes, options));
    },
    async delete(id, options) {
      await request(http, "DELETE", dreamPath(id), null, options);
    },
    async addImages(id, images, options) {
      await request(http, "POST", `${dreamPath(id)}images/`, multipartBody(imageFields(images)), options);
    },
    async deleteImage(id, imageId, options) {
      await request(http, "DELETE", `${dreamPath(id)}images/${encodeURIComponent(String(imageId))}/`, null, options);
    },
    async retryImages(id, options) {
      await request(http, "POST", `${dreamPath(id)}images/retry/`, null, options);
    },
  };
}

/** The multipart form of a new dream: lists travel as JSON inside strings, photos as numbered pairs. */
export function dreamForm(dream: NewDream): Blob {
  return multipartBody([
    { name: "title", text: dream.title },
    { name: "content", text: dream.content },
    { name: "categories", text: JSON.stringify(dream.categories ?? []) },
    { name: "tags", text: JSON.stringify(dream.tags ?? { theme: [], character: [], location: [] }) },
    ...imageFields(dream.images ?? []),
  ]);
}

function imageFields(images: readonly NewImage[]): FormField[] {
  return images.flatMap(({ file, name, position }, index): FormField[] => {
    // Not by `instanceof`: Node 18 has no global `File`.
    const fileName = name ?? ("name" in file && isString(file.name) ? file.name : `image_${index}`);
    const photo = { name: `imageFile_${index}`, file, fileName };
    if (position === undefined) return [photo];
    // The position goes first, so that a server that streams the body knows it before the photo's bytes.
    return [{ name: `imageMetadata_${index}`, text: JSON.stringify({ position }) }, photo];
  });
}

function isStrings(value: unknown): value is string[] {
  return isArrayOf(value, isString);
}

function isImagesStatus(value: unknown): value is ImagesStatus {
  return (
    isObject(value) &&
    IMAGE_STATUSES.some((status) => status === value["status"]) &&
    isString(value["websocket_url"]) &&
    isArrayOf(value["images"], isDreamImage) &&
    isMissingOr(value["message"], isString) &&
    isMissingOr(value["version"], isNumber) &&
    isMissingOr(value["errors"], (errors) => isArrayOf(errors, isImageError))
  );
}

function isDream(value: unknown): value is Dream {
  return (
    isObject(value) &&
    isId(value["id"]) &&
    isString(value["title"]) &&
    isString(value["content"]) &&
    isStrings(value["categories"]) &&
    isStrings(value["theme_tags"]) &&
    isStrings(value["character_tags"]) &&
    isStrings(value["location_tags"]) &&
    isArrayOf(value["images"], isDreamImage) &&
    isImagesStatus(value["images_status"]) &&
    isString(value["created_at"])
  );
}

function asDream(value: unknown): Dream {
  if (isDream(value)) return value;
  throw new ApiError(200, "bad_answer", "the server's answer is no dream");
}

function asDreamPage(value: unknown): DreamPage {
  if (isObject(value) && Array.isArray(value["results"]) && isMissingOr(value["next"], isString)) {
    // One dream that a newer server writes differently must not hide the others.
    return { results: value["results"].filter(isDream), next: value["next"] ?? null };
  }
  throw new ApiError(200, "bad_answer", "the server's answer is no list of dreams");
}
