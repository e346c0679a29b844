// Keeps a page up to date: the server's page is fetched again and its main part put in the place of the old one.
"use strict";
const EVERY_MS = 2000;
const POINTS_MAX = 90; // three minutes
const main = document.querySelector("main[data-live]");
const gone = document.getElementById("gone");
const figure = document.querySelector("figure");
const points = [];
let last = null;

function read(value) {
  return value.toLocaleString("en", { maximumFractionDigits: value < 10 ? 1 : 0 });
}

// Each line has a scale of its own, from 0 to its top, which stands below.
function line(kind) {
  const top = Math.max(1, ...points.map((point) => point[kind]));
  const step = 300 / (POINTS_MAX - 1);
  const first = POINTS_MAX - points.length;
  const at = points.map((point, n) => `${((first + n) * step).toFixed(1)},${(57 - 54 * point[kind] / top).toFixed(1)}`);
  figure.querySelector(`polyline.${kind}`).setAttribute("points", at.join(" "));
  document.getElementById(kind).value = `${read(points.at(-1)[kind])} (top ${read(top)})`;
}

function note() {
  const figures = document.querySelector("[data-settled]");
  if (!figure || !figures) return;
  const now = { settled: +figures.dataset.settled, lag: +figures.dataset.lag, at: +figures.dataset.at };
  // The worker was started anew when its count went back.
  if (last && now.at > last.at && now.settled >= last.settled) {
    const rate = (now.settled - last.settled) / (now.at - last.at);
    points.push({ rate, lag: now.lag });
    points.splice(0, points.length - POINTS_MAX);
    figure.hidden = false;
    line("rate");
    line("lag");
  }
  last = now;
}

async function look() {
  const isSelecting = !getSelection().isCollapsed;
  if (document.hidden || isSelecting || main.contains(document.activeElement)) return;
  let page = null;
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    if (answer.redirected) location.reload(); // the session is over
    if (answer.ok) page = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("main");
  } catch { /* said below */ }
  if (page) {
    main.replaceChildren(...page.childNodes);
    note();
  } else if (gone.hidden) {
    gone.textContent = `The worker does not answer since ${new Date().toLocaleTimeString()}; this is what it said last.`;
  }
  gone.hidden = Boolean(page);
}

async function follow() {
  await look();
  setTimeout(follow, EVERY_MS);
}

note();
setTimeout(follow, EVERY_MS);
