"use strict";
// Sends images to /predict, one a request, and shows what comes back. Text of others is only ever set as text.

const AT_ONCE = 4; // requests; the server makes one batch of what comes together
const MOST_FILES = 50; // sent together, and shown
const TEN = 10;
const byId = (name) => document.getElementById(name);
let served = null;

function made(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

async function asked(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer; has it been ended?");
  }
  const content = await response.json().catch(() => null);
  if (!response.ok) throw new Error(content?.error ?? `The server answers ${response.status}.`);
  if (content === null) throw new Error("The server's answer cannot be read.");
  return content;
}

async function begin() {
  byId("curl").textContent = `curl -F image=@cat.png ${location.origin}/predict`;
  served = await asked("run");
  document.title = `${served.name} - cifar-hapi`;
  byId("run").textContent = aboutRun();
  byId("note").textContent = served.note;
  byId("note").hidden = !served.note;
  byId("files").accept = served.formats.map((format) => `image/${format.toLowerCase()}`).join(",");
  const formats = served.formats.join(", ").replace(/, ([^,]*)$/, " or $1");
  byId("formats").textContent = `${formats}; at most ${mebibytes(served.most_bytes)} and ${millions(served.most_pixels)} pixels each.`;
}

function aboutRun() {
  const accuracy = served.accuracy;
  const right = accuracy ? `, ${percent(accuracy.top1, 2)} right of ${accuracy.images.toLocaleString("en")} test images` : "";
  return `Run ${served.name}: ${served.network}, trained on ${served.data === "synthetic" ? "generated images" : served.data}, ${served.class_names.length} classes${right}.`;
}

async function show(files) {
  byId("problems").replaceChildren();
  if (files.length > MOST_FILES) told(`These are ${files.length} files; the first ${MOST_FILES} are sent.`);
  const waiting = [...files].slice(0, MOST_FILES).map((file) => [file, begunCard(file)]);
  byId("answers").prepend(...waiting.map(([, card]) => card));
  [...byId("answers").children].slice(MOST_FILES).forEach(forget);
  const next = async () => {
    for (let entry = waiting.shift(); entry; entry = waiting.shift()) await answer(...entry);
  };
  await Promise.all(Array.from({ length: AT_ONCE }, next));
}

async function answer(file, card) {
  const name = file.name || "the pasted image";
  try {
    const begun = performance.now();
    const found = (await sent(file)).images[0];
    complete(card, found, performance.now() - begun);
    byId("status").textContent = `${name}: ${found.class}, ${percent(found.probabilities[found.class])}`;
  } catch (error) {
    forget(card);
    told(error.message.startsWith(name) ? error.message : `${name}: ${error.message}`);
  }
}

function sent(file) {
  if (served && file.size > served.most_bytes) throw new Error(`has more than ${mebibytes(served.most_bytes)}`);
  const form = new FormData();
  form.append("image", file, file.name || "the pasted image");
  return asked("predict?seen=true", { method: "POST", body: form });
}

function begunCard(file) {
  const source = URL.createObjectURL(file);
  const given = made("img", { src: source, alt: "The image that was sent" });
  given.addEventListener("error", () => given.closest("figure").remove()); // the server reads more than this browser
  const pictures = made("div", { className: "pictures" }, made("figure", {}, given, made("figcaption", {}, "as sent")));
  const head = made("header", {}, made("h2", { className: "waiting" }, "…"), made("span", { className: "quiet" }, file.name || "pasted"));
  return Object.assign(made("article", { className: "answer" }, head, pictures), { source });
}

function forget(card) {
  card.remove();
  URL.revokeObjectURL(card.source);
}

function complete(card, found, milliseconds) {
  const shares = Object.entries(found.probabilities).sort((one, other) => other[1] - one[1]);
  const side = served?.image_size ?? 32;
  const seen = made("img", { src: found.seen, alt: `The same at ${side} by ${side} pixels, as the network saw it` });
  card.querySelector("h2").replaceWith(made("h2", {}, `${found.class}, ${percent(found.probabilities[found.class])}`));
  card.querySelector(".pictures").append(
    made("figure", { className: "seen" }, seen, made("figcaption", {}, `as the network saw it, ${side} × ${side}`)));
  card.append(bars(shares), made("p", { className: "quiet" }, timings(found, milliseconds)));
}

function bars(shares) {
  const table = made("table", {}, made("caption", { className: "hidden" }, "How likely each class is"));
  const place = made("div", {}, table);
  const fill = (some) => table.replaceChildren(table.caption, made("tbody", {}, ...some.map(row)));
  fill(shares.slice(0, TEN));
  if (shares.length > TEN) {
    const more = made("button", { type: "button" }, `All ${shares.length} classes`);
    more.setAttribute("aria-expanded", "false");
    more.addEventListener("click", () => {
      const all = more.getAttribute("aria-expanded") === "false";
      more.setAttribute("aria-expanded", String(all));
      more.textContent = all ? "The ten likeliest" : `All ${shares.length} classes`;
      fill(all ? shares : shares.slice(0, TEN));
    });
    place.append(more);
  }
  return place;
}

function row([name, share]) {
  const bar = made("div", { className: "bar" });
  const track = made("div", { className: "track" }, bar);
  bar.style.width = `${100 * share}%`;
  const head = made("th", { scope: "row", className: name.length > 24 ? "long" : "" }, name);
  const drawn = made("td", {}, track);
  drawn.setAttribute("aria-hidden", "true");
  return made("tr", {}, head, drawn, made("td", { className: "share" }, percent(share)));
}

function timings({ seconds, batch }, milliseconds) {
  const ms = (value) => `${(1000 * value).toFixed(1)} ms`;
  const shared = batch > 1 ? ` (for ${batch} images together)` : "";
  return `Decoded in ${ms(seconds.decode)}, waited ${ms(seconds.wait)}, network ${ms(seconds.network)}${shared}; `
    + `${milliseconds.toFixed(0)} ms in all, with the way there and back.`;
}

function told(sentence) {
  byId("problems").append(made("p", { className: "notice" }, sentence));
}

const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)} %`;
const mebibytes = (bytes) => `${+(bytes / 2 ** 20).toFixed(1)} MiB`;
const millions = (count) => (count < 1e6 ? count.toLocaleString("en") : `${+(count / 1e6).toFixed(1)} million`);

function takeDropped(event) {
  event.preventDefault();
  byId("drop").classList.remove("over");
  byId("problems").replaceChildren();
  const files = event.dataTransfer.files;
  files.length ? show(files) : told("That was no file; save the picture first, or copy it and paste it here.");
}

function takePasted(event) {
  const files = event.clipboardData.files;
  byId("problems").replaceChildren();
  files.length ? show(files) : told("The clipboard holds no picture.");
}

byId("files").addEventListener("change", (event) => {
  show([...event.target.files]);
  event.target.value = ""; // so that the same file can be chosen again
});
for (const kind of ["dragenter", "dragover"]) {
  addEventListener(kind, (event) => {
    event.preventDefault();
    byId("drop").classList.add("over");
  });
}
addEventListener("dragleave", (event) => event.relatedTarget ?? byId("drop").classList.remove("over"));
addEventListener("drop", takeDropped);
addEventListener("paste", takePasted);
begin().catch((error) => {
  byId("run").textContent = "";
  told(error.message);
});
