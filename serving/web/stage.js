// What is in view: a photograph before and after on top of each other, with a divide between them, scaled to fit or at
// 100 %; or a video.

const byId = (id) => document.getElementById(id);
const CENTER = [0.5, 0.5]; // shares of width and height
const PANNED = { tabindex: "0", role: "group", "aria-label": "Photograph at 100 %, to be moved" };
const TWICE = { ms: 400, pixels: 24 }; // at most, between two taps or clicks that are one double
const exactly = (pixels) => `${pixels / devicePixelRatio}px`;

export class Stage {
  /**
   * `onChange()` is called when a picture or video that was asked for has been decoded, or cannot be; `onZoom()` when
   * somebody asks for 100 %, or back.
   */
  constructor(onChange, onZoom) {
    Object.assign(this, { onZoom, close: false, aim: CENTER, differs: false });
    this.frame = byId("frame");
    this.pan = byId("pan");
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
    this.#listen();
  }

  /**
   * Show files of an item, each a Blob or null.
   * @param before the photograph or video; null where this browser cannot show it
   * @param after its result, when there is one; of a video in place of it
   * @param kind what the result is: "After" or "Transmission"
   * @param close at 100 %: a pixel of the photograph is one of the screen
   */
  show(item, before, after, kind, close) {
    const same = item === this.item;
    if (!same) this.differs = false;
    this.item = item;
    const name = item?.name ?? "";
    const video = Boolean(item?.video);
    this.before.show(video ? null : before, `${name}, before`, same);
    this.after.show(video ? null : after, `${name}, ${kind.toLowerCase()}`, same);
    this.clip.show(video ? after ?? before : null, `${name}, ${after ? "after" : "before"}`, same);
    this.dehazed = after !== null;
    byId("after-tag").textContent = kind;
    this.split.setAttribute("aria-label", `Divide between before and ${kind.toLowerCase()}`);
    this.#arrange();
    this.#zoom(close);
  }

  #arrange() {
    const [before, after] = [this.before.size, this.after.size];
    // The browser turns the photograph in another way than the service does, so they cannot be compared.
    if (!this.before.pending && !this.after.pending) {
      this.differs = before !== null && after !== null && (before.width !== after.width || before.height !== after.height);
    }
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
    const whole = this.differs ? null : this.item?.size; // that of the photograph, also where a preview is shown
    const { width, height } = whole ?? after ?? before ?? clip ?? { width: 960, height: 640 };
    const style = { ratio: width / height, natural: `${width}px`, width: exactly(width), height: exactly(height) };
    for (const [name, value] of Object.entries(style)) this.frame.style.setProperty(`--${name}`, String(value));
    byId("zoom").hidden = before === null && after === null;
  }

  #zoom(close) {
    byId("zoom").textContent = close ? "Fit to the page" : "View at 100 %";
    if (close === this.close) return;
    this.close = close;
    this.frame.classList.toggle("close", close);
    for (const [name, value] of Object.entries(PANNED)) {
      if (close) this.pan.setAttribute(name, value);
      else this.pan.removeAttribute(name);
    }
    const { scrollWidth, clientWidth, scrollHeight, clientHeight } = this.pan;
    this.pan.scrollTo(this.aim[0] * scrollWidth - clientWidth / 2, this.aim[1] * scrollHeight - clientHeight / 2);
    this.aim = CENTER;
  }

  #listen() {
    const { frame, pan } = this;
    const toggle = (aim) => {
      if (byId("zoom").hidden) return;
      this.aim = aim;
      this.onZoom();
    };
    byId("zoom").addEventListener("click", () => toggle(CENTER));
    frame.addEventListener("keydown", ({ key }) => key === "Enter" && toggle(CENTER));
    let last = {}; // a slider gives no dblclick for fingers
    frame.addEventListener("pointerup", (event) => {
      const { clientX, clientY, timeStamp, button } = event;
      const near = Math.hypot(clientX - last.clientX, clientY - last.clientY) < TWICE.pixels;
      const twice = button === 0 && near && timeStamp - last.timeStamp < TWICE.ms;
      last = twice ? {} : event;
      if (!twice) return;
      const { left, top, width, height } = byId("sheet").getBoundingClientRect();
      toggle([(clientX - left) / width, (clientY - top) / height]);
    });
    pan.addEventListener("scroll", () => frame.style.setProperty("--x", `${pan.scrollLeft}px`));
    let held = null; // where the sheet is held by the mouse; fingers scroll as everywhere
    pan.addEventListener("pointerdown", ({ pointerType, pointerId, clientX, clientY }) => {
      if (pointerType !== "mouse") return;
      held = [pan.scrollLeft + clientX, pan.scrollTop + clientY];
      pan.setPointerCapture(pointerId);
    });
    pan.addEventListener("pointermove", ({ clientX, clientY }) => held && pan.scrollTo(held[0] - clientX, held[1] - clientY));
    pan.addEventListener("lostpointercapture", () => {
      held = null;
    });
  }

  #divide() {
    const before = Number(this.split.value);
    this.frame.style.setProperty("--split", String(before));
    this.split.setAttribute("aria-valuetext", `${before} % before, ${100 - before} % after`);
  }
}

/** An <img> and the object URL that it shows, revoked as soon as it shows something else. */
class Picture {
  constructor(image, onChange) {
    Object.assign(this, { image, onChange });
    this.blob = null;
    this.pending = false;
    this.url = "";
    this.size = null; // { width, height } of what is shown, or null
  }

  /** Show a Blob, or nothing; what was shown stays until the new picture is decoded, unless `keep` is false. */
  async show(blob, description, keep) {
    this.image.alt = description;
    if (blob === this.blob) return;
    Object.assign(this, { blob, pending: blob !== null });
    if (!blob || !keep) this.#put("", null);
    if (!blob) return;
    const url = URL.createObjectURL(blob);
    const next = new Image();
    next.src = url;
    await next.decode().catch(() => {}); // a damaged file may still be shown in part
    const stale = this.blob !== blob;
    if (!stale) this.pending = false;
    if (stale || !next.naturalWidth) {
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

  /** Load a Blob, or nothing; with `keep` it goes on where the last one was. */
  show(blob, description, keep) {
    this.video.setAttribute("aria-label", description);
    if (blob === this.blob) return;
    this.blob = blob;
    const [time, playing] = [this.video.currentTime, keep && !this.video.paused && !this.video.ended];
    URL.revokeObjectURL(this.video.src);
    if (blob) this.video.src = URL.createObjectURL(blob);
    else this.video.removeAttribute("src");
    this.video.load();
    if (keep) this.video.currentTime = time;
    if (playing) this.video.play().catch(() => {}); // it was replaced by another
  }
}
