// The addresses of the admin listener. The token, where there is one, stays in this tab and goes nowhere else.

const KEY = "larder-token";

/** What the server said instead of what was asked for. */
export class Refused extends Error {
  constructor(status, problem) {
    super(problem.detail || `status ${status}`);
    this.status = status;
    this.code = problem.code || "";
  }
}

export const setToken = (token) => sessionStorage.setItem(KEY, token);

/** Asks; throws Refused, or TypeError where nothing answers. */
export async function ask(path, body) {
  const headers = { accept: "application/json" };
  const token = sessionStorage.getItem(KEY);
  if (token) headers.authorization = `Bearer ${token}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  const response = await fetch(path, {
    method: body === undefined ? "GET" : "POST",
    headers,
    body: body === undefined ? undefined : JSON.stringify(body),
    cache: "no-store",
    credentials: "omit",
  });
  const text = await response.text();
  let answer = {};
  try { answer = JSON.parse(text); } catch { answer = { detail: text.slice(0, 500) }; }
  if (!response.ok) throw new Refused(response.status, answer);
  return answer;
}
