/** The photos of the draft: what was chosen, where each goes, and the list that shows it. */

import { clampPosition, type NewImage } from "../src/index.js";
import { announce, button, byId, el } from "./dom.js";
import type { ExpectedPicture } from "./dream-text.js";
import { movedPosition, wordsBefore } from "./placement.js";
import { loadPhotos, savePhotos } from "./photo-store.js";
import { texts } from "./texts.js";

interface Photo {
  readonly key: number;
  readonly file: File;
  readonly previewUrl: string;
  position: number;
  /** Pixels of the preview once it has loaded; 0 before, and for files that the browser cannot show. */
  width: number;
  height: number;
}

/** The draft's photos. `onChange` fires after every change, of the set or of a position. */
export class Photos {
  private photos: Photo[] = [];
  private content = "";
  private nextKey = 0;
  /** The text has moved photos since they were kept. */
  private isToKeep = false;
  private readonly list = byId("photos", HTMLElement);

  constructor(
    private readonly caret: () => number,
    private readonly onChange: () => void,
  ) {}

  get count(): number {
    return this.photos.length;
  }

  /** What to upload, in reading order: the order in which the server numbers them. */
  get images(): readonly NewImage[] {
    return this.sorted().map(({ file, position }) => ({ file, name: file.name, position }));
  }

  /** What the text will look like. */
  get expected(): readonly ExpectedPicture[] {
    return this.sorted().map(({ position, width, height, previewUrl }) => ({ position, width, height, previewUrl }));
  }

  /** Brings back the photos of an unfinished draft. */
  async restore(content: string): Promise<void> {
    this.content = content;
    for (const { file, position } of await loadPhotos()) this.insert(file, position);
    this.changed(false);
  }

  /** Adds `files` at `position`; `null`: where the cursor is. */
  add(files: readonly File[], position: number | null = null): void {
    if (files.length === 0) return;
    for (const file of files) this.insert(file, position ?? this.caret());
    announce(texts.photoAdded(files.length));
    this.changed(true);
  }

  /** Tells that the text has changed, so that photos stay at their words. */
  follow(content: string): void {
    if (content === this.content) return;
    for (const photo of this.photos) {
      const position = movedPosition(this.content, content, photo.position);
      this.isToKeep ||= position !== photo.position;
      photo.position = position;
    }
    this.content = content;
    if (this.photos.length > 0) this.changed(false);
  }

  /** Keeps the places to which the text has moved photos: a whole draft's photos are too much to write at every key. */
  keep(): void {
    if (this.isToKeep) this.save();
  }

  /** Forgets all photos. The previews stay valid for whoever took {@link expected} before. */
  clear(): void {
    this.photos = [];
    this.content = "";
    this.changed(true);
  }

  /** Marks the photo that the server complained about; `null` clears all marks. */
  mark(problems: ReadonlyMap<number, string> | null): void {
    this.sorted().forEach((photo, index) => {
      const row = this.list.querySelector<HTMLElement>(`[data-key="${photo.key}"]`);
      const problem = problems?.get(index);
      row?.classList.toggle("is-wrong", problem !== undefined);
      const line = row?.querySelector<HTMLElement>(".error-text");
      if (line != null) {
        line.textContent = problem ?? "";
        line.hidden = problem === undefined;
      }
    });
  }

  private insert(file: File, position: number): void {
    const photo: Photo = {
      key: this.nextKey,
      file,
      previewUrl: URL.createObjectURL(file),
      position: clampPosition(this.content, position),
      width: 0,
      height: 0,
    };
    this.nextKey += 1;
    this.photos.push(photo);
  }

  private sorted(): readonly Photo[] {
    return [...this.photos].sort((left, right) => left.position - right.position || left.key - right.key);
  }

  private changed(isWorthKeeping: boolean): void {
    this.render();
    this.onChange();
    if (isWorthKeeping) this.save();
  }

  private save(): void {
    this.isToKeep = false;
    savePhotos(this.sorted().map(({ file, position }) => ({ file, position })));
  }

  private render(): void {
    this.list.hidden = this.photos.length === 0;
    const rows = new Map([...this.list.children].map((row) => [(row as HTMLElement).dataset["key"], row as HTMLElement]));
    const focused = document.activeElement;
    const wanted = this.sorted().map((photo) => {
      const row = rows.get(String(photo.key)) ?? this.makeRow(photo);
      this.updateRow(row, photo);
      return row;
    });
    // Rows are moved only where the order differs, for moving an element takes its focus away.
    const isSameOrder = wanted.length === this.list.children.length && wanted.every((row, i) => this.list.children[i] === row);
    if (!isSameOrder) this.list.replaceChildren(...wanted);
    if (focused instanceof HTMLElement && focused.isConnected && focused !== document.activeElement) focused.focus();
  }

  private makeRow(photo: Photo): HTMLElement {
    const thumb = el("img", { class: "photo-thumb", attributes: { alt: "" } });
    thumb.addEventListener("load", () => {
      photo.width = thumb.naturalWidth;
      photo.height = thumb.naturalHeight;
      this.onChange();
    });
    thumb.addEventListener("error", () => {
      thumb.replaceWith(el("span", { class: "photo-thumb photo-blank", text: texts.photoNoPreview }));
    });
    thumb.src = photo.previewUrl;
    const slider = el("input", {
      class: "photo-slider",
      testid: "photo-position",
      attributes: { type: "range", min: "0", step: "1", "aria-label": texts.photoPosition(photo.file.name) },
    });
    slider.addEventListener("input", () => {
      const wanted = Number(slider.value);
      // One step right into a surrogate pair goes on to behind it, or the slider would be stuck in front of an emoji.
      const isStuck = wanted > photo.position && clampPosition(this.content, wanted) === photo.position;
      this.place(photo, isStuck ? wanted + 1 : wanted);
    });
    return el(
      "li",
      { class: "photo", testid: "photo", attributes: { "data-key": String(photo.key) } },
      thumb,
      el(
        "div",
        { class: "photo-body" },
        el("span", { class: "photo-name", text: photo.file.name, attributes: { title: photo.file.name } }),
        el("span", { class: "hint photo-where" }),
      ),
      button("×", "quiet photo-remove", () => this.remove(photo), {
        testid: "photo-remove",
        attributes: { "aria-label": texts.photoRemove(photo.file.name), title: texts.photoRemove(photo.file.name) },
      }),
      el(
        "div",
        { class: "photo-place" },
        slider,
        button(texts.photoToCursor, "quiet small", () => this.place(photo, this.caret()), { testid: "photo-to-cursor" }),
      ),
      el("p", { class: "error-text", attributes: { hidden: "" } }),
    );
  }

  private updateRow(row: HTMLElement, photo: Photo): void {
    const where = row.querySelector<HTMLElement>(".photo-where");
    const slider = row.querySelector<HTMLInputElement>(".photo-slider");
    const words = wordsBefore(this.content, photo.position);
    const place =
      photo.position >= this.content.length && this.content !== ""
        ? texts.photoAtEnd
        : words === ""
          ? texts.photoAtStart
          : texts.photoAfter(words);
    if (where !== null) where.textContent = place;
    if (slider !== null) {
      slider.max = String(this.content.length);
      slider.value = String(photo.position);
      slider.disabled = this.content === "";
      slider.setAttribute("aria-valuetext", place);
    }
  }

  private place(photo: Photo, position: number): void {
    photo.position = clampPosition(this.content, position);
    this.changed(true);
  }

  private remove(photo: Photo): void {
    this.photos = this.photos.filter((other) => other !== photo);
    URL.revokeObjectURL(photo.previewUrl);
    this.changed(true);
    // The button that had the focus is gone.
    byId("files", HTMLInputElement).focus();
  }
}
