// The page: what people do becomes calls of the gallery, and its state becomes what they see.

import { getJson, hasToken, Problem, setToken } from "./api.js";
import { Gallery, MOST_PHOTOGRAPHS, queryOf } from "./gallery.js";
import { bytes, explain, hazeFound, listed, scores, sentence } from "./messages.js";
import { ownFormat, resultName, written } from "./photo.js";
import { Stage } from "./stage.js";
import { fill, phase, Strip } from "./strip.js";
import { zipped } from "./zip.js";

const SETTLED_MS = 300; // after the last move of a slider
const SLIDERS = ["strength", "distance", "smoothing"]; // in hundredths
const SWITCHES = { "keep-exposure": "keepExposure", protect: "protect" };
const byId = (id) => document.getElementById(id);
const on = (id, event, action) => byId(id).addEventListener(event, action);

const gallery = new Gallery(render, announce);
const stage = new Stage(render, () => gallery.inspect(!gallery.selected.full));
const strip = new Strip(gallery);
let saving = null; // the job of a download that is being made, with a `label` that says which

// --- the service -----------------------------------------------------------------------------------------------

async function connect() {
  try {
    const { models, limits } = await getJson("v1/models");
    offer(models, limits);
    byId("token-problem").textContent = "";
    gallery.resume(limits);
    return true;
  } catch (problem) {
    gallery.halt(problem instanceof Problem ? problem : new Problem("unexpected", String(problem)));
    return false;
  }
}

function offer(models, limits) {
  const picked = byId("model").value;
  byId("model").replaceChildren(...models.map(({ name, default: first }) => new Option(first ? `${name} (default)` : name, first ? "" : name)));
  byId("model").value = models.some(({ name }) => name === picked) ? picked : "";
  byId("model-field").hidden = models.length < 2;
  const format = byId("format").value;
  byId("format").replaceChildren(new Option("as the photograph", ""), ...written(limits.formats).map((name) => new Option(name, name)));
  byId("format").value = written(limits.formats).includes(format) ? format : "";
  byId("limits").textContent = `${listed(limits.formats)}, up to ${bytes(limits.max_bytes)} each.`;
  const most = bytes(limits.max_video_bytes);
  const videos = ` Videos up to ${most}; the service keeps one until its result is here.`;
  if (!limits.no_videos) byId("limits").append(videos);
  for (const words of document.querySelectorAll(".videos")) words.hidden = Boolean(limits.no_videos);
}

on("notice-retry", "click", async () => {
  announceText((await connect()) ? "The service is reachable again." : explain(gallery.halted).text);
});
addEventListener("online", () => gallery.halted?.code === "unreachable" && connect());

on("token-form", "submit", async (event) => {
  event.preventDefault();
  const token = byId("token").value.trim();
  byId("token").value = "";
  if (!/^[\x21-\x7e]+$/.test(token)) { // no header takes it
    byId("token-problem").textContent = explain({ code: "unauthorized" }).text;
    return;
  }
  setToken(token);
  if (await connect()) {
    announceText("The token is accepted.");
    byId("main").focus();
  } else if (gallery.halted.code === "unauthorized") {
    setToken("");
    byId("token-problem").textContent = explain(gallery.halted).text;
    render();
  }
});

on("forget", "click", () => {
  setToken("");
  clear();
  connect();
});

// --- photographs come in ---------------------------------------------------------------------------------------

function take(files) {
  if (!files.length) return;
  const left = gallery.add(files);
  announceText(`${files.length - left} added.` + (left ? ` The list holds ${MOST_PHOTOGRAPHS}; ${left} were left out.` : ""));
}

for (const id of ["files", "more"]) {
  on(id, "change", (event) => {
    const hadNone = !gallery.items.length;
    take([...event.target.files]);
    event.target.value = ""; // the same file may be chosen again
    if (hadNone && gallery.items.length) byId("main").focus({ preventScroll: true }); // the field that had it is hidden now
  });
}

addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) {
    event.preventDefault();
    take([...event.clipboardData.files]);
  }
});

let entered = 0; // dragging over nested elements enters the new one before it leaves the old
const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
const dragged = (change) => (event) => {
  if (!carriesFiles(event)) return;
  event.preventDefault();
  entered = Math.max(0, entered + change);
  document.body.classList.toggle("dropping", entered > 0);
};
addEventListener("dragenter", dragged(1));
addEventListener("dragleave", dragged(-1));
addEventListener("dragover", dragged(0));
addEventListener("drop", (event) => {
  if (!carriesFiles(event)) return;
  event.preventDefault();
  entered = 0;
  document.body.classList.remove("dropping");
  take([...event.dataTransfer.files]);
});

addEventListener("pagehide", () => { // nobody would fetch what becomes of a video
  gallery.cancel(...gallery.items.filter((item) => item.taken));
});

// --- controls --------------------------------------------------------------------------------------------------

let settling = 0;
for (const id of SLIDERS) {
  on(id, "input", () => {
    const item = gallery.selected;
    const wanted = Object.fromEntries(SLIDERS.map((each) => [each, Number(byId(each).value) / 100]));
    byId(`${id}-value`).textContent = told(id, wanted[id]);
    clearTimeout(settling);
    settling = setTimeout(() => {
      settling = 0;
      if (gallery.items.includes(item)) gallery.want(item, wanted);
    }, SETTLED_MS);
  });
}
for (const [id, name] of Object.entries(SWITCHES)) {
  on(id, "change", () => gallery.want(gallery.selected, { [name]: byId(id).checked }));
}
on("model", "change", () => gallery.want(gallery.selected, { model: byId("model").value }));
for (const id of ["view-image", "view-map"]) on(id, "change", (event) => gallery.show(event.target.value));
for (const id of ["cut-before", "cut-after"]) {
  on(id, "change", () => {
    gallery.selected.original = id === "cut-before";
    render();
  });
}
on("for-all", "click", () => {
  const { settings } = gallery.selected;
  for (const item of gallery.unlike(gallery.selected)) gallery.want(item, settings);
  byId("strength").focus({ preventScroll: true }); // the button is gone
  announceText("All have these settings now.");
});
on("cancel", "click", () => gallery.cancel(gallery.selected));
on("retry", "click", () => gallery.retry(gallery.selected));
on("cancel-all", "click", () => gallery.cancelAll());
on("stop-saving", "click", () => saving?.controller.abort());
on("clear", "click", () => {
  clear();
  byId("files").focus();
});
on("format", "change", () => {
  byId("download-problem").textContent = "";
  render();
});

function clear() {
  saving?.controller.abort();
  gallery.clear();
}

on("download", "click", () => {
  const { selected: item, view } = gallery;
  return download(async (job) => file(item, view, job));
});

on("download-all", "click", () => download(async (job) => {
  const items = gallery.items.filter(done);
  const files = [];
  for (const item of items) {
    job.label = `${files.length + 1} of ${items.length}: `;
    files.push(await file(item, "image", job));
  }
  return { name: "dehazed.zip", blob: await zipped(files) };
}));

/** Save the file that `make(job)` gives, { name, blob }; one download at a time. */
async function download(make) {
  const job = { label: "", phase: "sending", progress: 0, controller: new AbortController() };
  byId("download-problem").textContent = "";
  saving = job;
  render();
  try {
    const { name, blob } = await make(job);
    job.controller.signal.throwIfAborted();
    save(blob, name);
  } catch (problem) {
    if (!job.controller.signal.aborted) byId("download-problem").textContent = explain(problem).text;
  }
  saving = null;
  render();
}

/** A result in full size: the one that is shown where it is that already, else the service makes it. */
async function file(item, output, job) {
  const shown = item.results[output]; // null where it gave way to others
  const format = item.video ? shown.format : byId("format").value || ownFormat(item.format);
  const wanted = { ...(shown?.wanted ?? item.wanted), output, format };
  const result = shown?.format === format && shown.body === item.file ? shown : await gallery.make(item, wanted, job);
  return { name: resultName(item.name, result.format, output === "image" ? "dehazed" : "transmission"), blob: result.blob };
}

/** For the archive: there is a result as it is wanted, or there was before it gave way to others; of a video, any. */
function done(item) {
  return !item.refusal && (item.video ? item.results.image !== null : item.has("image") || item.released);
}

on("copy", "click", async () => {
  const text = byId("command").textContent;
  try {
    await navigator.clipboard.writeText(text);
    announceText("The command is copied.");
  } catch { // not allowed, or no https
    getSelection().selectAllChildren(byId("command"));
    announceText("The command is selected: copy it.");
  }
});

/** What makes the result that is shown, in a shell; the token stays out of it. */
function command(item) {
  const format = byId("format").value || null;
  const url = new URL("v1/dehaze", document.baseURI);
  const query = queryOf(item, { ...item.wanted, output: gallery.view, format });
  if (!format && gallery.view === "image") delete query.format; // curl shows nothing: the photograph's own will do
  for (const [name, value] of Object.entries(query)) url.searchParams.set(name, value);
  const kind = format ?? (gallery.view === "image" ? ownFormat(item.format) : "PNG");
  const result = resultName(item.name, kind, gallery.view === "image" ? "dehazed" : "transmission");
  const token = hasToken() ? ["--header \"Authorization: Bearer $TOKEN\""] : [];
  const words = [...token, `--data-binary ${quoted(`@${item.name}`)}`, `--output ${quoted(result)}`, quoted(url.href)];
  return ["curl --fail-with-body", ...words].join(" \\\n  ");
}

function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

function save(blob, name) {
  const url = URL.createObjectURL(blob);
  const link = Object.assign(document.createElement("a"), { href: url, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000); // the browser has begun to read it by then
}

// --- what is seen ----------------------------------------------------------------------------------------------

function render() {
  const { items, selected: item, halted } = gallery;
  const locked = halted?.code === "unauthorized";
  byId("token-form").hidden = !locked;
  byId("forget").hidden = !hasToken();
  byId("notice").hidden = !halted || locked;
  const told = halted && !locked ? explain(halted).text : "";
  if (byId("notice-text").textContent !== told) byId("notice-text").textContent = told;
  byId("empty").hidden = items.length > 0;
  strip.render();
  byId("work").hidden = byId("gallery").hidden = !items.length;
  const [ready, able] = [items.filter(done).length, items.filter((each) => !each.refusal).length];
  byId("download-all").hidden = ready < 2;
  byId("download-all").textContent = ready < able ? `Download ${ready} of ${able}` : "Download all";
  byId("download-all").disabled = Boolean(saving);
  byId("saving").hidden = !saving;
  byId("saving-text").textContent = saving ? saving.label + phase(saving) : "";
  fill(byId("saving-progress"), saving);
  byId("cancel-all").hidden = !items.some((each) => gallery.needs(each));
  if (item) renderItem(item);
  else stage.show(null, null, null, "After", false);
}

function renderItem(item) {
  const { view } = gallery;
  const result = item.results[view];
  const kind = view === "image" ? "After" : "Transmission";
  const shown = (item.size || item.video) && !item.refusal;
  const before = shown ? result?.body ?? item.preview ?? item.file : null;
  stage.show(item, before, item.original ? null : result?.blob ?? null, kind, item.full);
  renderText(item, result);
  renderProgress(item);
  const problem = strip.problem(item) ?? item.problems[view];
  byId("item-problem").hidden = !problem;
  byId("item-problem-text").textContent = problem ? explain(problem, item).text : "";
  byId("retry").textContent = item.stopped && item.results.image ? "Dehaze again" : "Try again";
  byId("retry").hidden = !(problem && explain(problem).again) && !item.stopped;
  if (item.stopped && !problem) {
    byId("item-problem").hidden = false;
    byId("item-problem-text").textContent = item.results.image ? "The result has other settings." : "Cancelled.";
  }
  for (const id of settling ? [] : SLIDERS) {
    byId(id).value = String(Math.round(item.wanted[id] * 100));
    byId(`${id}-value`).textContent = told(id, item.wanted[id]);
  }
  for (const [id, name] of Object.entries(SWITCHES)) byId(id).checked = item.wanted[name];
  byId("model").value = item.wanted.model;
  const fixed = Boolean(item.refusal || (item.video && item.job));
  for (const id of [...SLIDERS, ...Object.keys(SWITCHES), "model"]) byId(id).disabled = fixed;
  for (const id of ["view", "format-field", "as-command"]) byId(id).hidden = item.video;
  byId("smoothing-field").hidden = !item.video;
  byId("cut").hidden = !item.video || !result;
  byId(item.original ? "cut-before" : "cut-after").checked = true;
  byId("for-all").hidden = Boolean(item.refusal) || !gallery.unlike(item).length;
  byId(view === "image" ? "view-image" : "view-map").checked = true;
  byId("map-help").hidden = view === "image";
  byId("command").textContent = item.read && !item.refusal ? command(item) : "";
  byId("download").disabled = !result || Boolean(saving);
  byId("download").textContent = item.preview && result?.body !== item.file ? "Download in full size" : "Download";
}

function renderText(item, result) {
  byId("name").textContent = item.name;
  const pixels = item.video ? stage.clip.size : item.size;
  const size = pixels ? `${pixels.width} × ${pixels.height} pixels · ` : "";
  const made = result?.model ? ` · ${result.model}` : "";
  byId("facts").textContent = size + bytes(item.file.size) + made;
  const words = item.results.image ? scores(item.results.image.before, item.results.image.after) : "";
  const haze = result ? hazeFound(result) : "";
  byId("haze").hidden = !haze;
  byId("haze").textContent = haze;
  byId("scores").hidden = !words;
  byId("scores").textContent = words;
  let note = result?.detail ? sentence(result.detail) : "";
  const unshown = item.read && !item.size && !item.video && !strip.problem(item);
  if (unshown) note = `This browser cannot show the original.${queryOf(item, item.wanted).format === "png" ? " The result is shown as PNG." : ""}`;
  else if (stage.differs) note = "This browser turns the original in another way: only the result is shown.";
  else if (result && result.body !== item.file) note = "This is a preview. The photograph is dehazed in full size when you view it at 100 % or download it.";
  byId("note").hidden = !note;
  byId("note").textContent = note;
  const unseen = "This browser cannot play the video. Download the result to see it.";
  const place = result && stage.clip.failed ? unseen : "The result appears here";
  byId("placeholder").textContent = !item.read || strip.problem(item) ? "" : place;
}

function renderProgress(item) {
  byId("state").textContent = strip.state(item);
  byId("cancel").hidden = !gallery.needs(item) && !item.job;
  fill(byId("busy"), item.job);
}

/** What a slider says. */
function told(id, value) {
  return id === "smoothing" ? `${value.toFixed(1)} s` : `${Math.round(value * 100)} %`;
}

// --- what is heard ---------------------------------------------------------------------------------------------

function announce(item, kind) {
  const problem = item.refusal ?? item.problems[kind];
  const words = kind === "image" && !problem ? scores(item.results.image.before, item.results.image.after) : "";
  const ended = kind === "image" ? "is done." : "has its transmission.";
  announceText(`${item.name} ${problem ? explain(problem, item).text : ended} ${words}`);
}

function announceText(text) {
  byId("live").textContent = text.trim();
}

connect();
