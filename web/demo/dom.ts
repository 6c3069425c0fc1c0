/** Making and finding elements, without a framework. */

/** What {@link el} can set. */
export interface ElementProps {
  readonly class?: string;
  readonly text?: string;
  readonly testid?: string;
  readonly attributes?: { readonly [name: string]: string };
  readonly onClick?: (event: MouseEvent) => void;
}

/** A new element; text is always set as text, never as markup. */
export function el<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  props: ElementProps = {},
  ...children: readonly (Node | string | null)[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  if (props.class !== undefined) element.className = props.class;
  if (props.text !== undefined) element.textContent = props.text;
  if (props.testid !== undefined) element.dataset["testid"] = props.testid;
  for (const [name, value] of Object.entries(props.attributes ?? {})) element.setAttribute(name, value);
  if (props.onClick !== undefined) element.addEventListener("click", props.onClick as EventListener);
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** A button that submits nothing. */
export function button(text: string, style: string, onClick: () => void, props: ElementProps = {}): HTMLButtonElement {
  return el("button", { ...props, class: style, text, onClick, attributes: { type: "button", ...props.attributes } });
}

/** The element with `id`, which index.html is known to contain. */
export function byId<T extends HTMLElement>(id: string, kind: new () => T): T {
  const element = document.getElementById(id);
  if (element instanceof kind) return element;
  throw new Error(`index.html has no ${kind.name} #${id}`);
}

/** Shows `text` in `element`, or hides it where there is none. */
export function showText(element: HTMLElement, text: string | null): void {
  element.textContent = text ?? "";
  element.hidden = text === null || text === "";
}

/** Tells `text` to screen readers, politely. */
export function announce(text: string): void {
  const region = byId("announcer", HTMLElement);
  // The same text twice is no change, and would not be read again.
  region.textContent = region.textContent === text ? `${text}\u00a0` : text;
}
