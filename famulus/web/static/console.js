// Keeps a page up to date: the worker sends its main part whenever that is another, and it takes the place of the old.
"use strict";
const AGAIN_MS = 5000;
const PATIENCE_MS = 4000; // streams end and begin again by themselves
const main = document.querySelector("main[data-live]");
const gone = document.getElementById("gone");
let source = null;
let latest = null; // what has come, and waits while somebody selects something
let alarm = 0;

function read(html) {
  return new DOMParser().parseFromString(html, "text/html");
}

function put() {
  if (latest === null || !getSelection().isCollapsed || main.contains(document.activeElement)) return;
  main.replaceChildren(...latest);
  latest = null;
}

function heard() {
  clearTimeout(alarm);
  alarm = 0;
  gone.hidden = true;
}

function lost() {
  alarm ||= setTimeout(() => {
    gone.textContent = `The worker does not answer since ${new Date().toLocaleTimeString()}; this is what it said last.`;
    gone.hidden = false;
  }, PATIENCE_MS);
}

// Without a stream: its session is over, there is no room for one more, or the worker is away.
async function ask() {
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    if (answer.redirected) location.reload();
    if (!answer.ok) return;
    latest = [...read(await answer.text()).querySelector("main").childNodes];
    heard();
    put();
  } catch { /* said by lost() */ }
}

function close() {
  if (source) source.close();
  source = null;
}

function listen() {
  close();
  if (document.hidden) return;
  source = new EventSource(`/console/events?page=${encodeURIComponent(location.pathname)}`);
  source.onopen = heard;
  source.onmessage = (event) => {
    latest = [...read(JSON.parse(event.data).main).body.childNodes];
    put();
  };
  source.onerror = async () => {
    lost();
    if (source === null || source.readyState !== EventSource.CLOSED) return;
    close();
    await ask();
    setTimeout(() => { if (source === null) listen(); }, AGAIN_MS);
  };
}

document.addEventListener("visibilitychange", listen);
document.addEventListener("selectionchange", put);
main.addEventListener("focusout", () => setTimeout(put));
addEventListener("pagehide", close);
addEventListener("pageshow", (event) => { if (event.persisted) listen(); });
listen();
