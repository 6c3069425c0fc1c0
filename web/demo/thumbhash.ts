/**
 * Turns a thumbhash into a tiny picture: what a photo looks like from afar, in about 25 bytes.
 *
 * The format (Evan Wallace, ThumbHash): the picture as a few cosine coefficients of luminance (l), two colour differences
 * (p: yellow-blue, q: red-green) and optionally alpha (a). Five header bytes hold the constant terms and scales, a sixth
 * the same of alpha; then every further coefficient is four bits, low half of a byte first.
 */

/** Pixels, row-major, 4 bytes each: red, green, blue, alpha (not premultiplied), sRGB. */
export interface Thumbnail {
  readonly width: number;
  readonly height: number;
  readonly rgba: Uint8ClampedArray<ArrayBuffer>;
}

/** Length in pixels of the longer side. */
const SIDE_PX = 32;

interface Channel {
  readonly columns: number;
  readonly constant: number;
  /** Coefficient of the cosine with `x` and `y` half-waves at `y * columns + x`. */
  readonly waves: Float64Array;
  readonly rows: number;
}

/** Decodes `base64`; `null` where it is no thumbhash. */
export function decodeThumbhash(base64: string): Thumbnail | null {
  const bytes = bytesOf(base64);
  if (bytes === null || bytes.length < 5) return null;
  const bits = (from: number, count: number): number => {
    let value = 0;
    for (let bit = 0; bit < count; bit += 1) {
      value |= (((bytes[(from + bit) >> 3] ?? 0) >> ((from + bit) & 7)) & 1) << bit;
    }
    return value;
  };
  const hasAlpha = bits(23, 1) === 1;
  const isLandscape = bits(39, 1) === 1;
  const longSide = hasAlpha ? 5 : 7;
  const columns = Math.max(3, isLandscape ? longSide : bits(24, 3));
  const rows = Math.max(3, isLandscape ? bits(24, 3) : longSide);

  let nextBit = hasAlpha ? 48 : 40;
  const channel = (width: number, height: number, constant: number, scale: number): Channel => {
    const waves = new Float64Array(width * height);
    for (let y = 0; y < height; y += 1) {
      // Only the triangle of low frequencies is stored.
      for (let x = y === 0 ? 1 : 0; x * height < width * (height - y); x += 1) {
        waves[y * width + x] = (bits(nextBit, 4) / 7.5 - 1) * scale;
        nextBit += 4;
      }
    }
    return { columns: width, rows: height, constant, waves };
  };
  // Chroma scales are stored smaller than they are, as saturated colours are rare.
  const l = channel(columns, rows, bits(0, 6) / 63, bits(18, 5) / 31);
  const p = channel(3, 3, bits(6, 6) / 31.5 - 1, (bits(27, 6) / 63) * 1.25);
  const q = channel(3, 3, bits(12, 6) / 31.5 - 1, (bits(33, 6) / 63) * 1.25);
  const a = hasAlpha ? channel(5, 5, bits(40, 4) / 15, bits(44, 4) / 15) : null;
  if (nextBit > bytes.length * 8) return null;

  const ratio = columns / rows;
  const width = Math.round(ratio > 1 ? SIDE_PX : SIDE_PX * ratio);
  const height = Math.round(ratio > 1 ? SIDE_PX / ratio : SIDE_PX);
  const rgba = new Uint8ClampedArray(width * height * 4);
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      const [u, v] = [(x + 0.5) / width, (y + 0.5) / height];
      const [light, yellowBlue, redGreen] = [valueAt(l, u, v), valueAt(p, u, v), valueAt(q, u, v)];
      const blue = light - (2 / 3) * yellowBlue;
      const red = (3 * light - blue + redGreen) / 2;
      const alpha = a === null ? 1 : valueAt(a, u, v);
      rgba.set([red * 255, (red - redGreen) * 255, blue * 255, alpha * 255], (y * width + x) * 4);
    }
  }
  return { width, height, rgba };
}

/** The channel at `u`, `v` in `[0, 1]` of the picture's width and height: a two-dimensional inverse cosine transform. */
function valueAt(channel: Channel, u: number, v: number): number {
  let value = channel.constant;
  for (let y = 0; y < channel.rows; y += 1) {
    const rowWave = Math.cos(Math.PI * v * y);
    for (let x = 0; x < channel.columns; x += 1) {
      value += 2 * (channel.waves[y * channel.columns + x] ?? 0) * Math.cos(Math.PI * u * x) * rowWave;
    }
  }
  return value;
}

function bytesOf(base64: string): Uint8Array | null {
  try {
    return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  } catch {
    return null;
  }
}

/** The thumbnail as a `data:` URL, `null` where it is none or cannot be drawn. */
export function thumbhashUrl(base64: string): string | null {
  const thumbnail = decodeThumbhash(base64);
  if (thumbnail === null) return null;
  const canvas = document.createElement("canvas");
  canvas.width = thumbnail.width;
  canvas.height = thumbnail.height;
  const context = canvas.getContext("2d");
  if (context === null) return null;
  context.putImageData(new ImageData(thumbnail.rgba, thumbnail.width, thumbnail.height), 0, 0);
  return canvas.toDataURL("image/png");
}
