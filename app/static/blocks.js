// Fetches the blocks of a stream, in a thread of its own: the page's may be busy with drawing.

let key = null;
let port = null;
let point = null; // that the next block takes over
let at = null; // that the next block begins at
let sent = 0;
const moves = []; // points that were sent: which, and when the slider moved

async function fetchBlock(held) {
  const body = {};
  if (at !== null) { body.at = at; at = null; }
  if (point) {
    body.point = point.point;
    moves.push({ number: ++sent, when: point.when });
    point = null;
  }
  const response = await fetch(`/api/streams/${key}`, { method: "POST", body: JSON.stringify(body) });
  if (!response.ok) throw new Error((await response.json().catch(() => ({}))).error || "the stream has ended");
  const block = await response.arrayBuffer();
  const taken = Number(response.headers.get("x-taken"));
  const place = Number(response.headers.get("x-place"));
  port.postMessage({ block, place, clear: body.at !== undefined }, [block]);
  let newest = null;
  while (moves.length && moves[0].number <= taken) newest = moves.shift();
  if (newest) self.postMessage({ delay: (Date.now() - newest.when) / 1000 + held });
}

self.onmessage = ({ data }) => {
  if (data.key) {
    key = data.key;
    port = data.port;
    port.onmessage = ({ data: { held } }) => fetchBlock(held).catch((error) => self.postMessage({ error: error.message }));
  }
  if (data.point) point = data;
  if (data.at !== undefined) at = data.at;
};
