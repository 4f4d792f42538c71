// The photograph in view: before and after on top of each other, and a divide between them.

const byId = (id) => document.getElementById(id);

export class Stage {
  /** `onChange()` is called when a picture that was asked for has been decoded. */
  constructor(onChange) {
    this.frame = byId("frame");
    const changed = () => {
      this.#arrange();
      onChange();
    };
    this.before = new Picture(byId("before"), changed);
    this.after = new Picture(byId("after"), changed);
    this.split = byId("split");
    this.split.addEventListener("input", () => this.#divide());
    this.item = null;
    this.#divide();
  }

  /**
   * Show files of an item, each a Blob or null.
   * @param before the photograph; null where this browser cannot show it
   * @param after its result, when there is one
   * @param kind what the result is: "After" or "Transmission"
   */
  show(item, before, after, kind) {
    const same = item === this.item;
    this.item = item;
    const name = item?.name ?? "";
    this.before.show(before, `${name}, before`, same);
    this.after.show(after, `${name}, ${kind.toLowerCase()}`, same);
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
    byId("before-tag").hidden = this.before.image.hidden;
    byId("after-tag").hidden = this.after.image.hidden;
    byId("placeholder").hidden = before !== null || after !== null;
    const { width, height } = after ?? before ?? { width: 960, height: 640 };
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
