// A file that somebody chose: which format it is, whether this browser can show it, and what its result is called.

import { Problem } from "./api.js";
import { bytes, listed } from "./messages.js";

// Of what the service writes; HEIC it only reads.
const MEDIA = { JPEG: "image/jpeg", PNG: "image/png", WEBP: "image/webp", AVIF: "image/avif", TIFF: "image/tiff", BMP: "image/bmp" };
const SUFFIXES = {
  JPEG: [".jpg", ".jpeg", ".jpe", ".jfif"], PNG: [".png"], WEBP: [".webp"], AVIF: [".avif"], TIFF: [".tif", ".tiff"], BMP: [".bmp"],
};
const MAGIC = [
  ["JPEG", /^\xff\xd8\xff/], ["PNG", /^\x89PNG/], ["WEBP", /^RIFF[^]{4}WEBP/],
  ["AVIF", /^[^]{4}ftyp(avi[fs]|(mif1|msf1|miaf)[^]{4}([^]{4}){0,12}?avi[fs])/],
  ["HEIC", /^[^]{4}ftyp(hei[cmsx]|hev[cmsx]|mif1|msf1)/],
  ["TIFF", /^(II[*+]\0|MM\0[*+])/], ["BMP", /^BM/],
];
const THUMBNAIL = [160, 120];
const MOST_DRAWN = 50e6; // pixels; larger photographs have no thumbnail, as it takes four bytes for each to make one

/** The format by the first bytes, or null; what the name says does not matter. */
export async function formatOf(file) {
  let head;
  try {
    head = new Uint8Array(await file.slice(0, 64).arrayBuffer());
  } catch {
    throw new Problem("unreadable");
  }
  const text = String.fromCharCode(...head);
  return MAGIC.find(([, magic]) => magic.test(text))?.[0] ?? null;
}

/**
 * What this browser makes of an image file: { width, height, thumbnail }, upright; null when it cannot show it.
 * Nothing of it stays in memory but the thumbnail, a canvas.
 */
export async function look(file) {
  const url = URL.createObjectURL(file);
  const image = new Image();
  try {
    await loaded(image, url);
    const { naturalWidth: width, naturalHeight: height } = image;
    return { width, height, thumbnail: width * height > MOST_DRAWN ? null : thumbnail(image) };
  } catch {
    return null;
  } finally {
    image.removeAttribute("src");
    URL.revokeObjectURL(url);
  }
}

function loaded(image, url) {
  return new Promise((resolve, reject) => {
    Object.assign(image, { onload: resolve, onerror: reject, src: url });
  });
}

function thumbnail(image) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = THUMBNAIL;
  const scale = Math.max(canvas.width / image.naturalWidth, canvas.height / image.naturalHeight);
  const [width, height] = [image.naturalWidth * scale, image.naturalHeight * scale];
  canvas.getContext("2d").drawImage(image, (canvas.width - width) / 2, (canvas.height - height) / 2, width, height);
  return canvas;
}

/** Throws a Problem when the service would refuse the photograph, so that it need not be sent. */
export function check({ file, format, size }, limits) {
  if (file.size > limits.max_bytes) {
    throw new Problem("too_large", `It has ${bytes(file.size)}; at most ${bytes(limits.max_bytes)} are accepted.`);
  }
  if (!limits.formats.includes(format)) {
    throw new Problem("unsupported_format", `It takes ${listed(limits.formats)}.`);
  }
  if (size && size.width * size.height > limits.max_pixels) {
    const most = (limits.max_pixels / 1e6).toLocaleString("en");
    throw new Problem("too_large", `It has ${size.width} × ${size.height} pixels; at most ${most} million are accepted.`);
  }
}

/** Formats that results may have. */
export function written(formats) {
  return formats.filter((format) => format in MEDIA);
}

/** The format of a result when none is asked for. */
export function ownFormat(format) {
  return format in MEDIA ? format : "JPEG";
}

/** The format of a picture of the service; throws a Problem when it is none. */
export function formatOfAnswer(blob) {
  const found = Object.keys(MEDIA).find((format) => MEDIA[format] === blob.type);
  if (!found) throw new Problem("unexpected", "It is not a picture");
  return found;
}

/** "IMG_1.jpeg" becomes "IMG_1-dehazed.jpeg", or "IMG_1-dehazed.png" when the result is of another format. */
export function resultName(name, format, what) {
  const [, stem, suffix] = /^(.*?)(\.[^.]*)?$/s.exec(name);
  const kept = SUFFIXES[format].includes((suffix ?? "").toLowerCase()) ? suffix : SUFFIXES[format][0];
  return `${stem || "photograph"}-${what}${kept}`;
}
