/** A dream's text with its pictures, each with its space reserved before it has loaded. */

import { isImageUrl, segmentsOf, type DreamImage, type ImageVariant } from "../src/index.js";
import type { PendingPicture } from "./storage.js";
import { el } from "./dom.js";
import { texts } from "./texts.js";
import { thumbhashUrl } from "./thumbhash.js";

/** A picture that has no address yet; `previewUrl` shows the local file where it is at hand. */
export interface ExpectedPicture extends PendingPicture {
  readonly previewUrl?: string | null;
}

/** A variant whose proportions differ from the shown one by more than this is a crop, and no smaller version of it. */
const SAME_RATIO = 0.02;
/** Reserved where nothing is known of a picture's shape. */
const UNKNOWN_RATIO = 3 / 2;

/** Replaces the contents of `host` by the text with `images`. */
export function showDreamText(host: HTMLElement, title: string, content: string, images: readonly DreamImage[]): void {
  const shown = images.filter((image) => isImageUrl(image.url));
  const numbers = new Map(segmentImages(content, shown).map((image, index) => [image, index + 1]));
  fill(host, content, shown, (image) => pictureFigure(image, texts.pictureOf(numbers.get(image) ?? 0, title)));
}

/** Replaces the contents of `host` by the text with placeholders where pictures are to come. */
export function showExpectedText(host: HTMLElement, content: string, pictures: readonly ExpectedPicture[]): void {
  fill(host, content, pictures, expectedFigure);
}

function segmentImages(content: string, images: readonly DreamImage[]): DreamImage[] {
  return segmentsOf(content, images).flatMap((segment) => (segment.kind === "image" ? [segment.image] : []));
}

function fill<Image extends { readonly position: number }>(
  host: HTMLElement,
  content: string,
  images: readonly Image[],
  figure: (image: Image) => HTMLElement,
): void {
  const segments = segmentsOf(content, images);
  const nodes = segments.map((segment, index) => {
    if (segment.kind === "image") return figure(segment.image);
    return el("span", { text: trimmedText(segment.text, index > 0, index < segments.length - 1) });
  });
  host.replaceChildren(...nodes);
  host.hidden = nodes.length === 0;
}

/** A picture brings its own space: blanks and line breaks beside it would only tear a hole. */
function trimmedText(text: string, isAfterPicture: boolean, isBeforePicture: boolean): string {
  const start = isAfterPicture ? text.replace(/^[ \t]*(\r?\n){0,2}/, "") : text;
  return isBeforePicture ? start.trimEnd() : start;
}

function pictureFigure(image: DreamImage, alternative: string): HTMLElement {
  const { width, height } = sizeOf(image);
  const figure = reservedFigure(width, height);
  figure.dataset["imageId"] = String(image.id);
  figure.dataset["position"] = String(image.position);
  if (image.dominant_color != null) figure.style.backgroundColor = image.dominant_color;
  const blurred = image.placeholder == null ? null : thumbhashUrl(image.placeholder);
  if (blurred !== null) figure.style.backgroundImage = `url("${blurred}")`;

  const img = el("img", { attributes: { alt: alternative, decoding: "async" } });
  if (width > 0 && height > 0) {
    img.width = width;
    img.height = height;
  }
  img.addEventListener("load", () => {
    figure.classList.add("is-loaded");
    figure.classList.remove("is-broken");
  });
  img.addEventListener("error", () => figure.classList.add("is-broken"));
  const sources = sourceSet(image, width / height);
  if (sources !== "") {
    img.sizes = "(min-width: 68rem) 40rem, 92vw";
    img.srcset = sources;
  }
  img.src = image.url;

  const again = el("button", { class: "quiet", text: texts.tryAgain, attributes: { type: "button" } });
  again.addEventListener("click", () => {
    figure.classList.remove("is-broken");
    // Setting the same address again makes the browser load it again.
    if (sources !== "") img.srcset = sources;
    img.src = image.url;
  });
  figure.append(img, el("figcaption", { class: "picture-broken" }, `${texts.pictureBroken} `, again));
  return figure;
}

function expectedFigure(picture: ExpectedPicture): HTMLElement {
  const figure = reservedFigure(picture.width, picture.height);
  figure.classList.add("is-expected");
  figure.dataset["position"] = String(picture.position);
  if (picture.previewUrl != null) {
    // Decoration only, and no picture of the dream yet: hence a background.
    figure.style.backgroundImage = `url("${picture.previewUrl}")`;
  }
  figure.append(el("figcaption", { class: "picture-note", text: texts.picturePending }));
  return figure;
}

function reservedFigure(width: number, height: number): HTMLElement {
  const figure = el("figure", { class: "picture" });
  const ratio = width > 0 && height > 0 ? width / height : UNKNOWN_RATIO;
  figure.style.aspectRatio = String(ratio);
  // A tall picture is as wide as lets it fit on the screen; a small one is not blown up.
  figure.style.setProperty("--ratio", String(ratio));
  if (width > 0) figure.style.setProperty("--natural", `${width}px`);
  return figure;
}

function sizeOf(image: DreamImage): { readonly width: number; readonly height: number } {
  const own = Object.values(image.variants ?? {}).find((variant) => variant.url === image.url);
  return { width: image.width ?? own?.width ?? 0, height: image.height ?? own?.height ?? 0 };
}

/** The sizes of one picture for the browser to choose from; empty where there is no choice. */
function sourceSet(image: DreamImage, ratio: number): string {
  const isSameShape = (variant: ImageVariant): boolean =>
    Math.abs(variant.width / variant.height / ratio - 1) < SAME_RATIO && isImageUrl(variant.url);
  // A comma or blank in an address would be read as the end of it.
  const usable = Object.values(image.variants ?? {}).filter((one) => isSameShape(one) && !/[\s,]/.test(one.url));
  // A small photo has several variants of one size, as none is enlarged: one of them will do.
  const byWidth = new Map(usable.map((variant) => [variant.width, variant.url]));
  return byWidth.size < 2 ? "" : [...byWidth].map(([width, url]) => `${url} ${width}w`).join(", ");
}
