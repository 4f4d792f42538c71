// A zip archive of results, without compression: pictures and videos are compressed as it is. None is in memory whole.

import { Problem } from "./api.js";

const TABLE = new Uint32Array(256).map((_, index) => {
  let value = index;
  for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});
const MOST_BYTES = 2 ** 32 - 1; // sizes and places have four bytes
const UTF8 = 0x800;
const DATED = [0, 0x21]; // 1980-01-01: archives of the same results are equal

async function checksum(blob) {
  let value = 0xffffffff;
  const reader = blob.stream().getReader();
  for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
    for (const byte of piece.value) value = TABLE[(value ^ byte) & 0xff] ^ (value >>> 8);
  }
  return (value ^ 0xffffffff) >>> 0;
}

/** Little-endian numbers: [bytes, value] each. */
function numbers(...fields) {
  const view = new DataView(new ArrayBuffer(fields.reduce((sum, [size]) => sum + size, 0)));
  let at = 0;
  for (const [size, value] of fields) {
    if (size === 2) view.setUint16(at, value, true);
    else view.setUint32(at, value, true);
    at += size;
  }
  return view.buffer;
}

/** `files` are { name, blob }; equal names are numbered. Throws a Problem when they are too large for one archive. */
export async function zipped(files) {
  if (files.reduce((sum, { name, blob }) => sum + blob.size + 8 * (name.length + 32), 0) > MOST_BYTES) throw new Problem("archive_full");
  const [parts, directory, taken] = [[], [], new Set()];
  let offset = 0;
  for (const { name, blob } of files) {
    const bytes = new TextEncoder().encode(free(name, taken));
    const sum = await checksum(blob);
    const common = [[2, 20], [2, UTF8], [2, 0], [2, DATED[0]], [2, DATED[1]], [4, sum], [4, blob.size], [4, blob.size], [2, bytes.length], [2, 0]];
    parts.push(numbers([4, 0x04034b50], ...common), bytes, blob);
    directory.push(numbers([4, 0x02014b50], [2, 20], ...common, [2, 0], [2, 0], [2, 0], [4, 0], [4, offset]), bytes);
    offset += 30 + bytes.length + blob.size;
  }
  const size = directory.reduce((sum, part) => sum + part.byteLength, 0);
  const count = files.length;
  const end = numbers([4, 0x06054b50], [2, 0], [2, 0], [2, count], [2, count], [4, size], [4, offset], [2, 0]);
  return new Blob([...parts, ...directory, end], { type: "application/zip" });
}

function free(name, taken) {
  const [, stem, suffix] = /^(.*?)(\.[^.]*)?$/s.exec(name);
  let found = name;
  for (let count = 2; taken.has(found.toLowerCase()); count += 1) found = `${stem} (${count})${suffix ?? ""}`;
  taken.add(found.toLowerCase());
  return found;
}
