// What the page says: a sentence for each code of a problem, and words for numbers.

// `again`: the same file may well pass later, so the page offers to try again.
const PROBLEMS = {
  // of the photograph
  too_large: { text: "This photograph is too large for the service.", detail: true },
  unsupported_format: { text: "This is not a photograph that the service can read.", detail: true },
  empty: { text: "The file is empty." },
  corrupt: { text: "The file is damaged and cannot be read." },
  truncated: { text: "The file is incomplete: it ends before the picture does." },
  unreadable: { text: "The file cannot be read. It may be a folder, or have been moved since you chose it." },
  // of the request
  bad_request: { text: "The service did not accept the request.", detail: true },
  unknown_model: { text: "The service no longer has this model. Choose another one." },
  no_transmission: { text: "This model gives no transmission. Choose another model to see one." },
  no_scorer: { text: "This service does not score photographs." },
  unauthorized: { text: "The service does not accept this token." },
  forbidden: { text: "The service refuses this request.", detail: true },
  unprotected: { text: "The service answers only on its own machine until a token is set up for it." },
  not_found: { text: "The service does not know this address. Reload the page: it may have been updated." },
  method_not_allowed: { text: "The service does not know this request. Reload the page: it may have been updated." },
  too_many_files: { text: "These are too many files for one request." },
  no_videos: { text: "This service takes no videos.", detail: true },
  bad_video: { text: "This video cannot be dehazed.", detail: true },
  corrupt_archive: { text: "The archive is damaged and cannot be read." },
  head_too_large: { text: "The request has too many headers for the service." },
  encrypted: { text: "The file in the archive is encrypted." },
  unsupported_compression: { text: "The archive is compressed in a way that the service cannot read." },
  answer_full: { text: "The service has no room for the result.", again: true },
  archive_full: { text: "The results are too large for one archive. Download them one at a time." },
  // of jobs; the page hands in videos
  not_allowed: { text: "The service does not allow this folder or address.", detail: true },
  no_result: { text: "The service has no result of this job.", detail: true, again: true },
  jobs_full: { text: "The service has no room for another job.", again: true },
  // of the moment
  slow_request: { text: "The photograph took too long to send. Is the connection slow?", again: true },
  too_many_requests: { text: "Too many requests of yours are under way. Wait for one to end.", again: true },
  overloaded: { text: "The service has too much to do at the moment.", again: true },
  unavailable: { text: "The service is not ready at the moment.", again: true },
  model_unavailable: { text: "The model cannot be loaded at the moment. Choose another one, or try later.", again: true },
  out_of_memory: { text: "The service has too little memory for this photograph at the moment.", again: true },
  replica_lost: { text: "The part of the service that had this photograph died.", again: true },
  timeout: { text: "The service took too long for this photograph. A smaller one is quicker.", again: true },
  internal: { text: "The service failed. Its log says why.", again: true },
  error: { text: "The service refused the request.", detail: true, again: true },
  interrupted: { text: "The connection broke while the photograph was on its way.", again: true },
  unreachable: { text: "The service is not reachable.", again: true },
  unexpected: { text: "The answer is not one of this service. Is there a proxy in between?", detail: true, again: true },
};

/** { text, again } for a Problem; `item` is the photograph or video that has it. */
export function explain(problem, item = null) {
  const { text, detail = false, again = false } = PROBLEMS[problem.code] ?? PROBLEMS.error;
  const more = detail && problem.detail ? ` ${sentence(problem.detail)}` : "";
  const reference = problem.code === "internal" && problem.requestId ? ` Reference: ${problem.requestId}.` : "";
  const said = item?.video ? text.replaceAll("photograph", "video") : text;
  return { text: said + more + reference, again };
}

export function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}

/** "12.5 MB". */
export function bytes(count) {
  const units = ["bytes", "KB", "MB", "GB"];
  let power = 0;
  while (count >= 1024 && power < units.length - 1) {
    count /= 1024;
    power += 1;
  }
  return `${Number(count.toFixed(count < 10 && power ? 1 : 0))} ${units[power]}`;
}

/** "JPEG, PNG and TIFF". */
export function listed(words) {
  return words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`;
}

const STEPS = [[0.2, "dense haze"], [0.4, "hazy"], [0.6, "some haze"], [0.8, "mostly clear"], [Infinity, "clear"]];

function inWords(clearness) {
  return STEPS.find(([below]) => clearness < below)[1];
}

/** How much haze was found: "Light haze: 27 %."; "" where the model does not say. */
export function hazeFound({ haze, verdict }) {
  return haze === null || !verdict ? "" : `${sentence(verdict).slice(0, -1)}: ${Math.round(haze * 100)} %.`;
}

/** What the scores before and after say; "" without them. */
export function scores(before, after) {
  if (before === null || after === null) return "";
  const told = (score) => `${Math.round(score * 100)} % (${inWords(score)})`;
  const change = after > before ? "" : " By this score the photograph has not become clearer.";
  return `Clearness: ${told(before)} before, ${told(after)} after.${change}`;
}
