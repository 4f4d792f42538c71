// Requests to the service of this page: the token, progress, cancelling, and what can be wrong as a Problem.

const KEY = "dehaze.token";
const BY_STATUS = {
  401: "unauthorized", 403: "forbidden", 404: "not_found", 408: "slow_request", 413: "too_large",
  429: "too_many_requests", 502: "unavailable", 503: "unavailable", 504: "timeout",
};

let token = stored();

function stored() {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return ""; // storage is switched off: the token lasts as long as the page
  }
}

export function hasToken() {
  return token !== "";
}

export function setToken(value) {
  token = value;
  try {
    if (value) sessionStorage.setItem(KEY, value);
    else sessionStorage.removeItem(KEY);
  } catch {
    // as above
  }
}

/** Headers that every request carries. */
export function authorization() {
  return token ? { Authorization: `Bearer ${token}` } : {};
}

/** What went wrong: `code` is the service's, or one of this page (messages.js has a sentence for each). */
export class Problem extends Error {
  constructor(code, detail = "", { retryAfter = null, requestId = "" } = {}) {
    super(detail || code);
    Object.assign(this, { code, detail, retryAfter, requestId });
  }
}

/**
 * Send a request. XMLHttpRequest, because fetch does not tell how much of a body has been sent.
 * Resolves to { blob, header(name) }; rejects with a Problem, or the signal's reason when it was aborted.
 */
export function send(method, path, { query = {}, body = null, signal = null, onSent = () => {} } = {}) {
  const url = new URL(path, document.baseURI);
  for (const [name, value] of Object.entries(query)) url.searchParams.set(name, value);
  const { promise, resolve, reject } = deferred();
  const request = new XMLHttpRequest();
  request.open(method, url);
  request.responseType = "blob";
  for (const [name, value] of Object.entries(authorization())) request.setRequestHeader(name, value);
  request.upload.onprogress = (event) => event.lengthComputable && onSent(event.loaded / event.total);
  request.upload.onload = () => onSent(1);
  request.onload = () => {
    if (request.status >= 200 && request.status < 300) {
      resolve({ blob: request.response, header: (name) => request.getResponseHeader(name) });
    } else {
      problemOf(request).then(reject);
    }
  };
  request.onerror = () => reject(new Problem("unreachable"));
  request.onabort = () => reject(signal.reason);
  const abort = () => request.abort();
  signal?.throwIfAborted();
  signal?.addEventListener("abort", abort);
  request.send(body);
  return promise.finally(() => signal?.removeEventListener("abort", abort));
}

/** JSON of the service. */
export async function getJson(path, signal = null) {
  return jsonOf(await send("GET", path, { signal }));
}

/** What an answer says in JSON. */
export async function jsonOf(answer) {
  try {
    return JSON.parse(await answer.blob.text());
  } catch {
    throw new Problem("unexpected");
  }
}

/** Delete what is at a path of the service, also while the page is being left; nobody waits for the answer. */
export function forget(path) {
  const url = new URL(path, document.baseURI);
  fetch(url, { method: "DELETE", headers: authorization(), keepalive: true }).catch(() => {});
}

/** Wait, unless the signal ends it. */
export function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", stop);
      resolve();
    }, seconds * 1000);
    signal.addEventListener("abort", stop, { once: true });
  });
}

function deferred() {
  const parts = {};
  parts.promise = new Promise((resolve, reject) => Object.assign(parts, { resolve, reject }));
  return parts;
}

async function problemOf(request) {
  let told = {};
  try {
    told = JSON.parse(await request.response.text());
  } catch {
    // not the service's own answer, but that of a proxy in front of it
  }
  const code = typeof told.code === "string" ? told.code : BY_STATUS[request.status] ?? "unexpected";
  const detail = typeof told.detail === "string" ? told.detail : `status ${request.status}`;
  const seconds = Number.parseFloat(request.getResponseHeader("Retry-After") ?? "");
  const retryAfter = Number.isFinite(seconds) ? seconds : null;
  return new Problem(code, detail, { retryAfter, requestId: told.request_id ?? "" });
}
