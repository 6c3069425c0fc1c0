/**
 * A multipart/form-data body (RFC 7578) as one Blob.
 *
 * Not `FormData`: that turns every line feed of a text into CR LF on the way (HTML standard, "multipart/form-data encoding
 * algorithm"), after which positions in the text point a line further back with every line. Files stay references: nothing
 * is read into memory before it is sent.
 */

/** One field: a text, or a file with its name. */
export type FormField =
  | { readonly name: string; readonly text: string }
  | { readonly name: string; readonly file: Blob; readonly fileName: string };

/** The body; its `type` is the Content-Type to send, boundary included. */
export function multipartBody(fields: readonly FormField[]): Blob {
  // Random enough never to occur inside a photo: 128 bits.
  const boundary = `oneiro-${Array.from({ length: 4 }, randomWord).join("")}`;
  const parts: BlobPart[] = [];
  for (const field of fields) {
    const disposition = `--${boundary}\r\nContent-Disposition: form-data; name="${escaped(field.name)}"`;
    if ("text" in field) {
      parts.push(`${disposition}\r\n\r\n`, field.text, "\r\n");
    } else {
      const type = field.file.type === "" ? "application/octet-stream" : field.file.type;
      parts.push(`${disposition}; filename="${escaped(field.fileName)}"\r\nContent-Type: ${type}\r\n\r\n`, field.file, "\r\n");
    }
  }
  parts.push(`--${boundary}--\r\n`);
  return new Blob(parts, { type: `multipart/form-data; boundary=${boundary}` });
}

/** 32 bits in hex; Node 18 has no `crypto` of browsers. */
function randomWord(): string {
  const word = globalThis.crypto?.getRandomValues(new Uint32Array(1))[0] ?? Math.floor(Math.random() * 2 ** 32);
  return word.toString(16).padStart(8, "0");
}

/** Names as browsers escape them (HTML standard, same section). */
function escaped(name: string): string {
  return name.replace(/\r\n|\r|\n/g, "%0D%0A").replace(/"/g, "%22");
}
