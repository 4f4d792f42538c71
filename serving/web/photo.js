// A file that somebody chose: which format it is, whether this browser can show it, and what its result is called.

import { Problem } from "./api.js";
import { bytes, listed } from "./messages.js";

// Of what the service writes; HEIC it only reads.
const MEDIA = { JPEG: "image/jpeg", PNG: "image/png", WEBP: "image/webp", AVIF: "image/avif", TIFF: "image/tiff", BMP: "image/bmp" };
const VIDEOS = { MP4: "video/mp4", MOV: "video/quicktime", MKV: "video/x-matroska", WEBM: "video/webm" };
const SUFFIXES = {
  JPEG: [".jpg", ".jpeg", ".jpe", ".jfif"], PNG: [".png"], WEBP: [".webp"], AVIF: [".avif"], TIFF: [".tif", ".tiff"], BMP: [".bmp"],
  MP4: [".mp4", ".m4v"], MOV: [".mov"], MKV: [".mkv"], WEBM: [".webm"],
};
const MAGIC = [
  ["JPEG", /^\xff\xd8\xff/], ["PNG", /^\x89PNG/], ["WEBP", /^RIFF[^]{4}WEBP/],
  ["AVIF", /^[^]{4}ftyp(avi[fs]|(mif1|msf1|miaf)[^]{4}([^]{4}){0,12}?avi[fs])/],
  ["HEIC", /^[^]{4}ftyp(hei[cmsx]|hev[cmsx]|mif1|msf1)/],
  ["TIFF", /^(II[*+]\0|MM\0[*+])/], ["BMP", /^BM/],
];
export const VIDEO = "video"; // the format of any that the service takes
const CLIP = /^([^]{4}(ftyp(?!crx )|moov|mdat|wide)|RIFF[^]{4}AVI |\x1aE\xdf\xa3|\0\0\x01[\xb3\xba]|FLV|0&\xb2u|OggS)/;
const THUMBNAIL = [160, 120];
const LARGE = 12e6; // pixels; from here on a photograph is shown, and first dehazed, as a preview
const PREVIEW_SIDE = 1600; // pixels of the longer side

/** The format by the first bytes, or null; what the name says does not matter. */
export async function formatOf(file) {
  let head;
  try {
    head = new Uint8Array(await file.slice(0, 64).arrayBuffer());
  } catch {
    throw new Problem("unreadable");
  }
  const text = String.fromCharCode(...head);
  return MAGIC.find(([, magic]) => magic.test(text))?.[0] ?? (CLIP.test(text) ? VIDEO : null);
}

/**
 * What this browser makes of an image file: { size, thumbnail, preview }, upright; null when it cannot show it.
 * Nothing of it stays in memory but the thumbnail, a canvas, and the preview, a smaller file; null where it is not large.
 */
export async function look(file, format) {
  const url = URL.createObjectURL(file);
  const image = new Image();
  try {
    await loaded(image, url);
    const { naturalWidth: width, naturalHeight: height } = image;
    const reduced = width * height < LARGE ? null : await reduce(file, width, height);
    const preview = reduced && await encoded(reduced, MEDIA[ownFormat(format)]);
    return { size: { width, height }, preview, thumbnail: thumbnail(reduced ?? image, width / height) };
  } catch {
    return null;
  } finally {
    image.removeAttribute("src");
    URL.revokeObjectURL(url);
  }
}

/** A thumbnail of a video's beginning; null when this browser cannot play it. */
export async function frameOf(file) {
  const url = URL.createObjectURL(file);
  const video = Object.assign(document.createElement("video"), { muted: true, preload: "auto" });
  try {
    await new Promise((resolve, reject) => {
      Object.assign(video, { onloadeddata: resolve, onerror: reject, src: url });
    });
    return thumbnail(video, video.videoWidth / video.videoHeight);
  } catch {
    return null;
  } finally {
    video.removeAttribute("src");
    video.load();
    URL.revokeObjectURL(url);
  }
}

function loaded(image, url) {
  return new Promise((resolve, reject) => {
    Object.assign(image, { onload: resolve, onerror: reject, src: url });
  });
}

/** Unlike drawing the image, this decodes beside the page's own thread, which stays free. */
async function reduce(file, width, height) {
  const [resizeWidth, resizeHeight] = [width, height].map((side) => Math.max(1, Math.round(side * PREVIEW_SIDE / Math.max(width, height))));
  const bitmap = await createImageBitmap(file, { resizeWidth, resizeHeight, resizeQuality: "high" });
  const canvas = Object.assign(document.createElement("canvas"), { width: bitmap.width, height: bitmap.height });
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  bitmap.close();
  return canvas;
}

/** A canvas as a file; as PNG where this browser does not write the kind. */
function encoded(canvas, kind) {
  return new Promise((resolve) => {
    canvas.toBlob(resolve, kind, 0.95);
  });
}

function thumbnail(image, ratio) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = THUMBNAIL;
  const width = Math.max(canvas.width, canvas.height * ratio);
  const height = width / ratio;
  canvas.getContext("2d").drawImage(image, (canvas.width - width) / 2, (canvas.height - height) / 2, width, height);
  return canvas;
}

/** Throws a Problem when the service would refuse the file, so that it need not be sent. */
export function check({ file, format, size, video }, limits) {
  if (!file.size) throw new Problem("empty");
  if (video && limits.no_videos) throw new Problem("no_videos", limits.no_videos);
  const most = video ? limits.max_video_bytes : limits.max_bytes;
  if (file.size > most) {
    throw new Problem("too_large", `It has ${bytes(file.size)}; at most ${bytes(most)} are accepted.`);
  }
  if (video) return;
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

/** The format of a picture or video of the service; throws a Problem when it is none. */
export function formatOfAnswer(blob) {
  const [found] = Object.entries({ ...MEDIA, ...VIDEOS }).find(([, kind]) => kind === blob.type) ?? [];
  if (!found) throw new Problem("unexpected", "It is neither a picture nor a video");
  return found;
}

/** "IMG_1.jpeg" becomes "IMG_1-dehazed.jpeg", or "IMG_1-dehazed.png" when the result is of another format. */
export function resultName(name, format, what) {
  const [, stem, suffix] = /^(.*?)(\.[^.]*)?$/s.exec(name);
  const kept = SUFFIXES[format].includes((suffix ?? "").toLowerCase()) ? suffix : SUFFIXES[format][0];
  return `${stem || "photograph"}-${what}${kept}`;
}
