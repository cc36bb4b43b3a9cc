// What the page asks of the server: one call a question, answered with a value or with a sentence of what is wrong.

export function createSession(call) {
  const token = [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  const ask = async (op, body = {}) => {
    let reply;
    try {
      reply = await call({ op, session: token, ...body });
    } catch {
      throw new Lost("The server does not answer. What is finished stays here; start the app again to go on.");
    }
    if (!reply || typeof reply !== "object") throw new Lost("The server's answer could not be read: reload the page.");
    if ("error" in reply) throw new Error(reply.error);
    return reply.ok;
  };
  // Follow a job to its end: `told(state)` hears of each state, the last one is given. `current()` false leaves it.
  const follow = async (job, told = () => {}, current = () => true) => {
    for (let seen = 0; current(); ) {
      const state = await ask("poll", { job, seen });
      seen = state.seen ?? seen + 1;
      if (!current()) return null;
      told(state);
      if (state.state === "failed") throw new Error(state.error);
      if (["done", "stopped"].includes(state.state)) return state;
    }
    return null;
  };
  // What a reply comes to: the answer in it, or that of its job, whose states `told` hears.
  const answered = async ({ job, answer }, told) => {
    if (!job) return answer;
    const state = await follow(job, told);
    if (state.state === "stopped") throw new DOMException("Stopped before its end.", "AbortError");
    return state.answer;
  };
  // A question of a panel about a run (null: what it draws at first): its answer, however long it takes; `told` hears
  // of its progress. What is given has a `stop()`, after which it rejects with an AbortError.
  const question = (run, panel, request, told = () => {}) => {
    let job = null, left = false;
    const halt = () => job && ask("stop", { job }).catch(() => {});
    const asking = async () => {
      const reply = await (request ? ask("ask", { run, panel, request }) : ask("data", { run, panel }));
      job = reply.job;
      if (left) halt();
      return answered(reply, (news) => {
        if (news.state === "queued") told({ done: 0, total: 0, told: "waiting: " + news.ahead + " before it" });
        if (news.progress) told(news.progress);
      });
    };
    return Object.assign(asking(), { stop: () => ((left = true), halt()) });
  };
  return { ask, follow, answered, question };
}

// The server is gone, or speaks another language.
export class Lost extends Error {}
