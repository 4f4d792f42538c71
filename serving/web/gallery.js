// The photographs and videos of the page and what is to be done for them, one request at a time of each kind. Knows
// nothing of the document.

import { getJson, pause, Problem, send } from "./api.js";
import { check, formatOf, formatOfAnswer, frameOf, look, ownFormat, VIDEO } from "./photo.js";
import { fetchVideo, release } from "./video.js";

export const MOST_PHOTOGRAPHS = 200;
const MOST_BYTES = 256 * 2 ** 20; // of results that are kept; those looked at longest ago are made again when asked for
const PATIENCE = { tries: 5, seconds: 30 }; // with a service that is busy and says when to come back
const SMOOTHING = 0.5; // seconds, as the service has it
const SHOWN_BY_BROWSERS = ["JPEG", "PNG", "WEBP", "AVIF", "BMP"];

const UNTOLD = { model: "", haze: null, verdict: null, before: null, after: null }; // of a video

let lastId = 0;

/** A photograph or video, how it is wanted, and what there is of it. */
class Item {
  constructor(file, wanted) {
    this.id = ++lastId;
    this.file = file;
    this.name = file.name || "photograph";
    this.wanted = { ...wanted };
    this.read = false; // format, size and thumbnail are known
    this.admitted = false; // it passed the checks of size and format
    this.format = null;
    this.size = null; // { width, height } upright, or null where this browser cannot show the file
    this.thumbnail = null;
    this.preview = null; // of a large photograph: the smaller file that is shown, and whose results are shown
    this.results = { image: null, transmission: null };
    this.problems = { image: null, transmission: null };
    this.refusal = null; // a Problem of the file itself, which was not sent
    this.full = false; // it is looked at closely: the file itself and its results are shown where a preview was
    this.original = false; // of a video: it is shown in place of its result
    this.stopped = false; // it waits for somebody to say that it shall begin
    this.job = null; // { item, kind, key, phase, progress, done, total, controller } while it is worked on
    this.taken = null; // see fetchVideo
    this.released = false; // its results gave way to those of others
    this.lookedAt = 0;
  }

  get video() {
    return this.format === VIDEO;
  }

  /** What the result of a kind depends on; with `changes`, as it would be then. */
  key(kind, changes = {}) {
    return JSON.stringify(queryOf(this, { ...this.wanted, ...changes, output: kind }));
  }

  /** How it is wanted, without what is of no meaning for it. */
  get settings() {
    const { smoothing, ...common } = this.wanted;
    return this.video ? { smoothing, ...common } : common;
  }

  /** The result of a kind is there and as it is wanted. */
  has(kind) {
    const result = this.results[kind];
    return result?.key === this.key(kind) && (!this.full || result.body === this.file);
  }
}

export class Gallery {
  /** `onChange()` is called after everything that can be seen; `onDone(item, kind)` when work on one has ended. */
  constructor(onChange, onDone) {
    Object.assign(this, { onChange, onDone });
    this.items = [];
    this.selected = null;
    this.view = "image";
    this.mostBytes = MOST_BYTES;
    this.defaults = { model: "", strength: 1, distance: 0, keepExposure: false, protect: false, smoothing: SMOOTHING };
    this.limits = null; // until the service has told them, nothing is sent
    this.halted = null; // the Problem that stops all work: no token, or no service
    this.reading = Promise.resolve();
    this.clock = 0;
  }

  /** Add files; returns how many there was no room for. */
  add(files) {
    const taken = [...files].slice(0, MOST_PHOTOGRAPHS - this.items.length);
    const items = taken.map((file) => new Item(file, this.defaults));
    this.items.push(...items);
    for (const item of items) this.reading = this.reading.then(() => this.#read(item)); // one decoded at a time
    if (!this.selected && items.length) this.select(items[0]);
    this.#changed();
    return files.length - taken.length;
  }

  select(item) {
    if (this.selected && this.selected !== item) this.selected.full = false;
    this.selected = item;
    if (item) {
      item.lookedAt = ++this.clock;
      item.released = false;
    }
    this.#changed();
  }

  show(view) {
    this.view = view;
    this.#changed();
  }

  /** Change how an item is wanted; a request for what is no longer wanted is cancelled. */
  want(item, changes) {
    const idle = item.stopped || item.problems.image !== null || item.has("image");
    Object.assign(item.wanted, changes);
    Object.assign(this.defaults, changes);
    item.stopped = item.video && idle && !item.has("image"); // it is long work, and not begun again by a slider
    item.problems = { image: null, transmission: null };
    if (!item.job || item.job.key !== item.key(item.job.kind)) this.#drop(item);
    this.#changed();
  }

  /** Those that are not wanted as an item is, but may be; a video that is worked on keeps its settings. */
  unlike({ settings }) {
    const free = this.items.filter((each) => each.admitted && !each.refusal && !(each.video && each.job));
    return free.filter((each) => each.key("image") !== each.key("image", settings));
  }

  /** Look at the selected photograph closely, or no longer. */
  inspect(full) {
    const item = this.selected;
    item.full = full;
    for (const kind of ["image", "transmission"]) {
      if (item.has(kind)) item.problems[kind] = null; // it was of the closer look
    }
    if (item.job && item.has(item.job.kind)) this.#drop(item);
    this.#changed();
  }

  /** Stop the work on items; one that has a result keeps it and the settings that made it. */
  cancel(...items) {
    for (const item of items) {
      const made = item.results.image;
      item.full = false;
      if (item === this.selected && !item.has("transmission")) this.view = "image";
      if (made) Object.assign(item.wanted, made.wanted);
      else item.stopped = true;
      this.#drop(item);
    }
    this.#changed();
  }

  cancelAll() {
    const unread = (item) => !item.admitted && !item.refusal;
    this.cancel(...this.items.filter((item) => unread(item) || this.needs(item) || item.job));
  }

  retry(item) {
    Object.assign(item, { stopped: false, problems: { image: null, transmission: null } });
    this.#changed();
  }

  remove(item) {
    const at = this.items.indexOf(item);
    this.items.splice(at, 1);
    this.#drop(item);
    if (this.selected === item) this.select(this.items[Math.min(at, this.items.length - 1)] ?? null);
    this.#changed();
  }

  clear() {
    for (const item of this.items) this.#drop(item);
    this.items = [];
    this.select(null);
  }

  halt(problem) {
    this.halted = problem;
    this.#changed();
  }

  resume(limits) {
    Object.assign(this, { limits, halted: null });
    this.#changed();
  }

  /** The kind of result that an item still waits for, or null. */
  needs(item) {
    if (!item.admitted || item.refusal || item.stopped || item.released) return null;
    const mapped = item === this.selected && this.view === "transmission";
    if (mapped && !item.has("transmission") && !item.problems.transmission && !item.problems.image) return "transmission";
    return item.has("image") || item.problems.image ? null : "image";
  }

  async #read(item) {
    if (!this.items.includes(item)) return;
    try {
      item.format = await formatOf(item.file);
      if (item.video) this.#glance(item);
      else if (item.format !== null) Object.assign(item, await look(item.file, item.format));
    } catch (problem) {
      item.refusal = asProblem(problem);
    }
    item.read = true;
    this.#changed();
  }

  /** Nobody waits for the thumbnail of a video: some browsers load none before it is played. */
  async #glance(item) {
    item.thumbnail = await frameOf(item.file);
    this.onChange();
  }

  #changed() {
    if (this.selected?.video) this.view = "image"; // it has no transmission
    this.#admit();
    this.onChange();
    if (this.halted || !this.limits) return;
    for (const video of [false, true]) this.#next((item) => item?.video === video);
  }

  /** What the service would refuse by its limits is not sent. */
  #admit() {
    if (!this.limits) return;
    for (const item of this.items.filter((each) => each.read && !each.admitted)) {
      item.admitted = true;
      try {
        if (!item.refusal) check(item, this.limits);
      } catch (problem) {
        item.refusal = problem;
      }
      if (item.refusal) this.onDone(item, "image");
    }
  }

  #next(ofKind) {
    if (this.items.some((each) => ofKind(each) && each.job)) return;
    const item = [this.selected, ...this.items].find((each) => ofKind(each) && this.needs(each));
    if (item) this.#run(item, this.needs(item));
  }

  async #run(item, kind) {
    const job = { item, kind, key: item.key(kind), phase: "sending", progress: 0, controller: new AbortController() };
    item.job = job;
    this.onChange();
    try {
      const wanted = { ...item.wanted };
      const body = item.full ? item.file : item.preview ?? item.file;
      const result = await this.make(item, { ...wanted, output: kind }, job, body);
      if (item.job === job) this.#keep(job, { ...result, key: job.key, wanted, body });
    } catch (problem) {
      if (!job.controller.signal.aborted) this.#failed(job, problem);
    }
    if (item.job === job) {
      item.job = null;
      this.#changed();
    }
  }

  #drop(item) {
    const { job } = item;
    item.job = null;
    job?.controller.abort();
    release(item);
  }

  /**
   * A result of an item, in full size unless its preview is the `body`; `wanted` as of fetchResult.
   * `job`, { phase, progress, controller }, tells how far it is, and cancels it.
   */
  async make(item, wanted, job, body = item.file) {
    const onSent = (share) => {
      Object.assign(job, { phase: share < 1 ? "sending" : "working", progress: share });
      this.onChange();
    };
    const onFrames = (frames) => {
      Object.assign(job, { phase: "working", ...frames });
      this.onChange();
    };
    const { signal } = job.controller;
    const clip = async () => {
      const { blob, detail } = await fetchVideo(item, queryOf(item, wanted), signal, onSent, onFrames);
      return { blob, format: formatOfAnswer(blob), detail, ...UNTOLD };
    };
    try {
      return await this.#patiently(job, item.video ? clip : () => fetchResult(item, body, wanted, signal, onSent));
    } catch (error) {
      throw await met(error);
    }
  }

  #keep({ item, kind }, result) {
    item.results[kind] = result;
    item.original = false;
    this.onDone(item, kind); // before it may be let go again
    this.#release();
  }

  #failed({ item, kind }, problem) {
    if (["unauthorized", "unreachable", "unprotected"].includes(problem.code)) {
      this.halt(problem); // no other photograph would fare better
      return;
    }
    item.problems[kind] = problem;
    this.onDone(item, kind);
  }

  async #patiently(job, attempt) {
    for (let tried = 1; ; tried += 1) {
      try {
        return await attempt();
      } catch (problem) {
        const wait = problem.retryAfter ?? Infinity;
        if (tried >= PATIENCE.tries || wait > PATIENCE.seconds) throw problem;
        job.phase = "queueing";
        this.onChange();
        await pause(wait, job.controller.signal);
        job.phase = "sending";
      }
    }
  }

  #release() {
    const kept = (item) => Object.values(item.results).reduce((sum, result) => sum + (result?.blob.size ?? 0), 0);
    const photographs = this.items.filter((item) => !item.video); // a video takes too long to be made again
    let total = photographs.reduce((sum, item) => sum + kept(item), 0);
    const others = photographs.filter((item) => item !== this.selected && kept(item));
    const oldest = others.sort((a, b) => a.lookedAt - b.lookedAt);
    for (const item of oldest) {
      if (total <= this.mostBytes) return;
      total -= kept(item);
      Object.assign(item, { results: { image: null, transmission: null }, released: true });
    }
  }
}

/**
 * A result of the service: { blob, format, model, haze, verdict, before, after }. `wanted` has the controls, model and
 * output, and perhaps format; without one the result is of the photograph's own format, or of one that browsers show.
 */
async function fetchResult(item, body, wanted, signal, onSent) {
  const query = queryOf(item, wanted);
  const answer = await send("POST", "v1/dehaze", { query, body, signal, onSent });
  const number = (name) => (answer.header(name) === null ? null : Number(answer.header(name)));
  return {
    blob: answer.blob,
    format: formatOfAnswer(answer.blob),
    model: decodeURIComponent(answer.header("X-Model") ?? ""),
    haze: number("X-Haze"),
    verdict: answer.header("X-Haze-Verdict"),
    before: number("X-Clearness-Before"),
    after: number("X-Clearness-After"),
  };
}

/** What is asked of the service for an item; `wanted` as of fetchResult. */
export function queryOf(item, { model, output, format = null, ...controls }) {
  const query = output === "transmission" ? { output } : asked(controls, item.video);
  if (model) query.model = model;
  if (format) query.format = format.toLowerCase();
  else if (output === "transmission" || !SHOWN_BY_BROWSERS.includes(ownFormat(item.format))) query.format = "png";
  return query;
}

/** The controls as the query has them: only those that change something. */
function asked({ strength, distance, keepExposure, protect, smoothing }, video) {
  const query = { strength: strength.toFixed(2) };
  if (distance) query.distance = distance.toFixed(2);
  if (keepExposure) query.keep_exposure = "true";
  if (protect) query.protect = "true";
  if (video && smoothing !== SMOOTHING) query.smoothing = String(smoothing);
  return query;
}

/** A service that closes the connection early, to refuse a file or because it died, is not one that is gone. */
async function met(error) {
  const problem = asProblem(error);
  if (problem.code !== "unreachable") return problem;
  return getJson("healthz").then(() => new Problem("interrupted"), () => problem);
}

function asProblem(error) {
  if (error instanceof Problem || error.name === "AbortError") return error;
  console.error(error); // a mistake of this page
  return new Problem("unexpected", String(error));
}
