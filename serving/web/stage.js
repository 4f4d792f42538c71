// What is in view: a photograph before and after on top of each other, with a divide between them; or a video.

const byId = (id) => document.getElementById(id);

export class Stage {
  /** `onChange()` is called when a picture or video that was asked for has been decoded, or cannot be. */
  constructor(onChange) {
    this.frame = byId("frame");
    const changed = () => {
      this.#arrange();
      onChange();
    };
    this.before = new Picture(byId("before"), changed);
    this.after = new Picture(byId("after"), changed);
    this.clip = new Clip(byId("clip"), changed);
    this.split = byId("split");
    this.split.addEventListener("input", () => this.#divide());
    this.item = null;
    this.#divide();
  }

  /**
   * Show files of an item, each a Blob or null.
   * @param before the photograph or video; null where this browser cannot show it
   * @param after its result, when there is one; of a video in place of it
   * @param kind what the result is: "After" or "Transmission"
   */
  show(item, before, after, kind) {
    const same = item === this.item;
    this.item = item;
    const name = item?.name ?? "";
    const video = Boolean(item?.video);
    this.before.show(video ? null : before, `${name}, before`, same);
    this.after.show(video ? null : after, `${name}, ${kind.toLowerCase()}`, same);
    this.clip.show(video ? after ?? before : null, `${name}, ${after ? "after" : "before"}`);
    this.dehazed = after !== null;
    byId("after-tag").textContent = kind;
    this.split.setAttribute("aria-label", `Divide between before and ${kind.toLowerCase()}`);
    this.#arrange();
  }

  /** The browser turns the photograph in another way than the service does, so they cannot be compared. */
  get differs() {
    const [before, after] = [this.before.size, this.after.size];
    return before !== null && after !== null && (before.width !== after.width || before.height !== after.height);
  }

  #arrange() {
    const [before, after] = [this.before.size, this.after.size];
    const comparing = before !== null && after !== null && !this.differs;
    this.frame.classList.toggle("comparing", comparing);
    this.before.image.hidden = before === null || (after !== null && !comparing);
    this.after.image.hidden = after === null;
    for (const id of ["split", "handle"]) byId(id).hidden = !comparing;
    const clip = this.clip.size;
    this.clip.video.hidden = clip === null;
    byId("before-tag").hidden = this.before.image.hidden && (clip === null || this.dehazed);
    byId("after-tag").hidden = this.after.image.hidden && (clip === null || !this.dehazed);
    byId("placeholder").hidden = before !== null || after !== null || clip !== null;
    const { width, height } = after ?? before ?? clip ?? { width: 960, height: 640 };
    this.frame.style.setProperty("--ratio", String(width / height));
    this.frame.style.setProperty("--natural", `${width}px`);
  }

  #divide() {
    const before = Number(this.split.value);
    this.frame.style.setProperty("--split", `${before}%`);
    this.split.setAttribute("aria-valuetext", `${before} % before, ${100 - before} % after`);
  }
}

/** An <img> and the object URL that it shows, revoked as soon as it shows something else. */
class Picture {
  constructor(image, onChange) {
    Object.assign(this, { image, onChange });
    this.blob = null;
    this.url = "";
    this.size = null; // { width, height } of what is shown, or null
  }

  /** Show a Blob, or nothing; what was shown stays until the new picture is decoded, unless `keep` is false. */
  async show(blob, description, keep) {
    this.image.alt = description;
    if (blob === this.blob) return;
    this.blob = blob;
    if (!blob || !keep) this.#put("", null);
    if (!blob) return;
    const url = URL.createObjectURL(blob);
    const next = new Image();
    next.src = url;
    await next.decode().catch(() => {}); // a damaged file may still be shown in part
    if (!next.naturalWidth || this.blob !== blob) {
      URL.revokeObjectURL(url);
      return;
    }
    this.#put(url, { width: next.naturalWidth, height: next.naturalHeight });
    this.onChange();
  }

  #put(url, size) {
    if (url) this.image.src = url;
    else this.image.removeAttribute("src");
    if (this.url) URL.revokeObjectURL(this.url);
    Object.assign(this, { url, size });
  }
}

/** A <video> and the object URL that it plays, revoked as soon as it plays something else. */
class Clip {
  constructor(video, onChange) {
    this.video = video;
    this.blob = null;
    for (const event of ["loadedmetadata", "error"]) video.addEventListener(event, onChange);
  }

  /** { width, height } of what is played; null where there is nothing, or this browser cannot play it. */
  get size() {
    const { videoWidth: width, videoHeight: height } = this.video;
    return width ? { width, height } : null;
  }

  /** This browser cannot play it. */
  get failed() {
    return this.video.error !== null;
  }

  /** Load a Blob, or nothing. */
  show(blob, description) {
    this.video.setAttribute("aria-label", description);
    if (blob === this.blob) return;
    this.blob = blob;
    URL.revokeObjectURL(this.video.src);
    if (blob) this.video.src = URL.createObjectURL(blob);
    else this.video.removeAttribute("src");
    this.video.load();
  }
}
