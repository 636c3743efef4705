// Requests to the server, elements, messages.

export async function call(path, body) {
  const response = await fetch(path, body === undefined ? {} : { method: "POST", body: JSON.stringify(body) });
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.error || `${path}: ${response.status}`);
  return answer;
}

export async function bytes(path, body) {
  const response = await fetch(path, body === undefined ? {} : { method: "POST", body: JSON.stringify(body) });
  if (!response.ok) throw new Error((await response.json().catch(() => ({}))).error || `${path}: ${response.status}`);
  return { content: await response.arrayBuffer(), headers: response.headers };
}

export async function upload(file, limits) {
  if (file.size > limits.bytes) throw new Error(`${file.name}: has more than ${Math.round(limits.bytes / 1e6)} MB`);
  const path = `/api/recordings?name=${encodeURIComponent(file.name)}`;
  const response = await fetch(path, { method: "POST", body: file });
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.error || "the recording was not received");
  return answer;
}

export const by = (id) => document.getElementById(id);

export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("aria-") || name === "role" || name === "for") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

export function say(error) {
  const text = error instanceof Error ? error.message : String(error);
  const toast = make("div", { className: "toast" }, make("span", {}, text));
  const close = make("button", { type: "button", onclick: () => toast.remove() }, "Close");
  toast.append(close);
  by("toasts").replaceChildren(toast);
  setTimeout(() => toast.remove(), 12000);
}

// A handler whose errors are shown.
export const guarded = (work) => async (...given) => {
  try {
    return await work(...given);
  } catch (error) {
    say(error);
    return undefined;
  }
};

export function save(content, name, type = "application/octet-stream") {
  const link = make("a", { href: URL.createObjectURL(new Blob([content], { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// The files of an export, and a line on what the other program lacks.
export async function exported(source, point, to) {
  const { files, lacking } = await call(`/api/presets/${source}/export`, { point, to });
  for (const file of files) save(Uint8Array.from(atob(file.content), (c) => c.charCodeAt(0)), file.name);
  return lacking;
}

export function number(x) {
  if (x === null || x === undefined) return "–";
  const size = Math.abs(x);
  if (size !== 0 && (size < 1e-3 || size >= 1e5)) return x.toExponential(2);
  return x.toFixed(size >= 1000 ? 0 : size >= 100 ? 1 : size >= 1 ? 2 : 3);
}

export const minutes = (s) => `${Math.floor(s / 60)}:${String(Math.floor(s % 60)).padStart(2, "0")}`;

// An area that a file is dropped on; `taken` gets the record of the upload.
export function dropArea(label, limits, taken) {
  const input = label.querySelector("input");
  const strong = label.querySelector("strong");
  const note = label.querySelector(".small");
  const show = (record) => {
    label.classList.add("held");
    strong.textContent = record.name;
    note.textContent = `${minutes(record.seconds)}, ${record.sr / 1000} kHz, ${["", "mono", "stereo"][record.channels] || `${record.channels} channels`}`;
  };
  const take = guarded(async (file) => {
    if (!file) return;
    const before = [strong.textContent, note.textContent];
    strong.textContent = file.name;
    note.textContent = "receiving …";
    try {
      const record = await upload(file, limits);
      show(record);
      await taken(record);
    } catch (error) {
      [strong.textContent, note.textContent] = before;
      throw error;
    }
  });
  input.addEventListener("change", () => take(input.files[0]).finally(() => { input.value = ""; }));
  label.addEventListener("dragover", (event) => { event.preventDefault(); label.classList.add("over"); });
  label.addEventListener("dragleave", () => label.classList.remove("over"));
  label.addEventListener("drop", (event) => {
    event.preventDefault();
    label.classList.remove("over");
    take(event.dataTransfer.files[0]);
  });
  return show;
}
