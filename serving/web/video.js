// A video, which is a job of the service: it is handed in, asked about until it has ended, fetched, and forgotten.

import { forget, getJson, jsonOf, pause, Problem, send } from "./api.js";

const ASK_S = 1;

/**
 * The result of a video: { blob, detail }; `detail` says what is not as in the source, and is mostly null. While the
 * service has it, `item.taken` is the path of its job: after a broken connection nothing is sent again.
 * `onFrames({ done, total })`: of frames; `total` is 0 as long as nobody knows it.
 */
export async function fetchVideo(item, query, signal, onSent, onFrames) {
  item.taken ??= await handIn(item.file, query, signal, onSent);
  try {
    for (;;) {
      const { status, done, total, code, detail } = await getJson(item.taken, signal);
      onFrames({ done, total });
      if (status === "done") {
        const { blob } = await send("GET", `${item.taken}/result`, { signal });
        release(item);
        return { blob, detail };
      }
      if (status !== "queued" && status !== "running") {
        release(item);
        throw new Problem(code ?? "no_result", detail ?? `it is ${status}`);
      }
      await pause(ASK_S, signal);
    }
  } catch (problem) {
    if (problem.code !== "not_found") throw problem;
    item.taken = null;
    throw new Problem("no_result", problem.detail);
  }
}

/** Let the service forget a video that it has. */
export function release(item) {
  if (item.taken) forget(item.taken);
  item.taken = null;
}

/** The path of the new job. Once all is sent, only the answer says which job it is that nobody wants any more. */
async function handIn(body, query, signal, onSent) {
  const sending = new AbortController();
  let sent = 0;
  signal.addEventListener("abort", () => sent < 1 && sending.abort(signal.reason));
  const tell = (share) => {
    sent = share;
    onSent(share);
  };
  const { id } = await jsonOf(await send("POST", "v1/jobs", { query, body, signal: sending.signal, onSent: tell }));
  const path = `v1/jobs/${id}`;
  if (signal.aborted) forget(path);
  signal.throwIfAborted();
  return path;
}
