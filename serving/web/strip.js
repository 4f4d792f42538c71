// The list of photographs and videos: one entry for each, with its picture, its state and what can be done with it.

import { explain } from "./messages.js";

/** How far a job is, in words. */
export function phase(job) {
  if (job.phase === "working" && job.done) return `Frame ${job.done}${job.total ? ` of ${job.total}` : ""}`;
  return PHASES[job.phase] ?? `Sending ${Math.round(job.progress * 100)} %`;
}

const PHASES = { queueing: "The service is busy; waiting", working: "Dehazing" };

export class Strip {
  constructor(gallery) {
    this.gallery = gallery;
    this.list = document.getElementById("list");
    this.first = document.getElementById("files");
    this.entries = new Map();
  }

  /** Bring the list in line with the gallery. Entries stay the same elements, so the focus stays where it is. */
  render() {
    const { items } = this.gallery;
    for (const [item, entry] of this.entries) {
      if (!items.includes(item)) this.#drop(item, entry);
    }
    for (const item of items) {
      if (!this.entries.has(item)) this.#make(item);
      this.#update(item, this.entries.get(item));
    }
  }

  /** What an item's state is called. */
  state(item) {
    if (item.job) return phase(item.job);
    if (this.problem(item)) return item.refusal ? "Not accepted" : "Failed";
    if (item.stopped) return item.results.image ? "Done with other settings" : "Cancelled";
    if (item.released) return "Select it to see the result again";
    if (!item.read) return "Reading";
    if (item.has("image") && !this.gallery.needs(item)) return "Done";
    return this.gallery.halted ? "Waiting for the service" : "Waiting";
  }

  /** What keeps an item from having its result. */
  problem(item) {
    return item.refusal ?? item.problems.image;
  }

  #make(item) {
    const entry = element("li", "entry");
    const pick = element("button", "pick");
    const picture = element("span", "thumbnail");
    const name = element("span", "name", item.name);
    const state = element("span", "small words");
    const bar = element("progress", "");
    const remove = element("button", "remove quiet", "×");
    pick.type = remove.type = "button";
    remove.setAttribute("aria-label", `Remove ${item.name}`);
    pick.title = item.name;
    bar.max = 1;
    bar.setAttribute("aria-hidden", "true"); // the state says it in words
    pick.append(picture, name, state, bar);
    pick.addEventListener("click", () => this.gallery.select(item));
    remove.addEventListener("click", () => this.gallery.remove(item));
    entry.append(pick, remove);
    this.list.lastElementChild.before(entry);
    this.entries.set(item, { entry, pick, picture, state, bar });
  }

  #update(item, { entry, pick, picture, state, bar }) {
    const { selected } = this.gallery;
    picture.classList.toggle("clip", item.video);
    if (item.thumbnail && !picture.firstChild) picture.append(item.thumbnail);
    const problem = this.problem(item);
    const words = problem && !item.job ? explain(problem, item).text : this.state(item);
    if (state.textContent !== words) state.textContent = words;
    entry.classList.toggle("failed", problem !== null);
    if (item === selected) pick.setAttribute("aria-current", "true");
    else pick.removeAttribute("aria-current");
    fill(bar, item.job);
  }

  /** The focus of an entry that goes passes to the next one. */
  #drop(item, { entry }) {
    const next = this.gallery.items.length ? entry.nextElementSibling.querySelector("button, input") : this.first;
    if (entry.contains(document.activeElement)) next.focus();
    entry.remove();
    this.entries.delete(item);
  }
}

/** Show how far a job is, if there is one. */
export function fill(bar, job) {
  bar.hidden = !job;
  if (job?.phase === "sending") bar.value = job.progress;
  else if (job?.total) bar.value = job.done / job.total;
  else bar.removeAttribute("value");
}

function element(tag, className, text = "") {
  return Object.assign(document.createElement(tag), { className, textContent: text });
}
