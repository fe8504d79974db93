// The study's page: one item at a time, by mouse, touch or keyboard. All text is set as text, never as markup.

import { Zoom } from "./zoom.js";

const PATIENCE = 30_000; // ms until a question to the server counts as lost
const AHEAD = 4; // rows of the next item whose pictures are fetched early
const PIXELS = 128; // smaller pictures are enlarged without smoothing

const at = (id) => document.getElementById(id);
const zoom = new Zoom(at("zoom"));
const touch = matchMedia("(pointer: coarse)").matches;
let state, item, began, dragged;
let place = 0; // of the item on the page; the number of items when all are done
let ranking = [];
let busy = false; // while the server is asked, keys and clicks do nothing

async function ask(path, body) {
  const options = { signal: AbortSignal.timeout(PATIENCE) };
  if (body) Object.assign(options, { method: "POST", keepalive: true, headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
  const answer = await fetch(path, options).catch(() => { throw new Error("The server does not answer."); });
  const found = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(found.error ?? `The server answers ${answer.status}.`);
  return found;
}

function load(source) {
  return new Promise((done, failed) => {
    const image = make("img", { draggable: false });
    image.onload = () => done(image);
    image.onerror = () => failed(new Error("A picture did not load."));
    image.src = source;
  });
}

function make(tag, options = {}, children = []) {
  const node = Object.assign(document.createElement(tag), options);
  node.append(...children);
  return node;
}

const isRanking = () => state.kind === "ranking";
const slots = () => item.rows[0].images.length;

/** Go to a place. The page changes only once everything is there, all pictures of a ranking at once. */
async function show(where) {
  if (where >= state.total) return state.place < state.total ? show(state.place) : finish();
  const found = await ask(`item/${where}`);
  const pictures = isRanking() ? await Promise.all(found.rows[0].images.map(load)) : null;
  [item, place] = [found, where];
  count();
  ranking = item.answer ? [...item.answer.ranking] : [];
  at("reason").value = item.answer?.reason ?? "";
  for (const [id, shown] of Object.entries({ why: state.reason, ranks: isRanking(), prompt: isRanking(), verdict: !isRanking(), buttons: true, zoom: true, next: true })) at(id).hidden = !shown;
  at("prompt").textContent = item.rows[0].prompt;
  at("task").textContent = isRanking()
    ? `Put the pictures in order, the best first: ${touch ? "tap them in that order" : "click them, drag them, or press their numbers"}.`
    : "Which side is better on the whole? Look at all pairs, then say which and why.";
  at("rows").className = isRanking() ? "" : "side";
  at("rows").replaceChildren(...(pictures ? [rankingRow(pictures)] : item.rows.map(pairRow)));
  zoom.watch([...document.querySelectorAll(".frame")]);
  at("error").hidden = true;
  scrollTo(0, 0);
  // Not on a picture: a key pressed once too often must not rank it.
  at(isRanking() ? "prompt" : "task").focus({ preventScroll: true });
  began = performance.now();
  warm(where + 1);
}

function count() {
  at("progress").max = Math.max(1, state.total);
  at("progress").value = state.done;
  at("count").textContent = state.total > 0 ? `${state.done} of ${state.total}` : "";
}

/** Fetch the pictures of a place before they are needed. */
async function warm(where) {
  if (where >= state.total) return;
  const found = await ask(`item/${where}`).catch(() => ({ rows: [] }));
  for (const row of found.rows.slice(0, AHEAD)) for (const source of row.images) load(source).catch(() => {});
}

function frameOf(image) {
  const sharpen = () => image.classList.toggle("pixels", Math.max(image.naturalWidth, image.naturalHeight) < PIXELS);
  if (image.complete) sharpen();
  image.addEventListener("load", sharpen);
  return make("span", { className: "frame" }, [image]);
}

function rankingRow(pictures) {
  const choices = pictures.map((image, i) => {
    image.alt = `Picture ${i + 1}`;
    const choice = make("button", { type: "button", className: "choice", draggable: true }, [frameOf(image), make("span", { className: "badge" })]);
    choice.addEventListener("click", () => pick(i));
    choice.addEventListener("dragstart", (event) => { dragged = i; event.dataTransfer.setData("text/plain", "picture"); });
    choice.addEventListener("dragend", () => { dragged = undefined; });
    return choice;
  });
  return make("section", {}, [make("div", { className: "row" }, choices)]);
}

function pairRow(row) {
  const sides = row.images.map((source, i) => {
    const image = make("img", { alt: i === 0 ? "Left" : "Right", loading: "lazy", draggable: false });
    image.onerror = () => fail("A picture did not load.", true);
    image.src = source;
    return make("div", { className: "choice" }, [frameOf(image)]);
  });
  return make("section", {}, [make("p", { className: "prompt", dir: "auto", textContent: row.prompt }), make("div", { className: "row" }, sides)]);
}

/** Bring the page in step with the ranking and with what is under way. */
function draw() {
  if (item && isRanking()) drawRanks();
  else if (item) for (const [i, id] of ["left", "right"].entries()) at(id).setAttribute("aria-pressed", String(ranking[0] === i));
  const complete = item && ranking.length === slots() && (!state.reason || at("reason").value.trim() !== "");
  at("next").disabled = busy || !complete;
  at("undo").disabled = busy || (ranking.length === 0 && place === 0);
  at("back").textContent = ranking.length > 0 ? "Undo" : "Back";
}

function drawRanks() {
  document.querySelectorAll(".choice").forEach((choice, i) => {
    const rank = ranking.indexOf(i);
    choice.classList.toggle("ranked", rank >= 0);
    choice.setAttribute("aria-pressed", String(rank >= 0));
    choice.setAttribute("aria-label", `Picture ${i + 1}, ${rank >= 0 ? `ranked ${rank + 1}` : "not ranked"}`);
    choice.querySelector(".badge").textContent = rank >= 0 ? ordinal(rank) : i + 1;
  });
  at("ranks").replaceChildren(...Array.from({ length: slots() }, (_, rank) => {
    const slot = make("li", {}, [make("span", { textContent: ordinal(rank) })]);
    if (rank < ranking.length) slot.append(make("img", { src: item.rows[0].images[ranking[rank]], alt: `Picture ${ranking[rank] + 1}`, draggable: false }));
    slot.addEventListener("dragover", (event) => { event.preventDefault(); slot.classList.add("over"); });
    slot.addEventListener("dragleave", () => slot.classList.remove("over"));
    slot.addEventListener("drop", (event) => { event.preventDefault(); if (dragged !== undefined) put(dragged, rank); });
    return slot;
  }));
  at("said").textContent = ranking.length > 0 ? `Best first: ${ranking.map((i) => `picture ${i + 1}`).join(", ")}` : "";
}

const ordinal = (rank) => (rank === 0 ? "Best" : rank === slots() - 1 ? "Last" : `${rank + 1}.`);

function pick(i) {
  if (slots() === 2) put(i, 0);
  else put(i, ranking.includes(i) ? -1 : ranking.length);
}

/** Give a picture a rank, or none (-1). The last place follows from the others. */
function put(i, rank) {
  if (busy || !item) return;
  ranking = ranking.filter((other) => other !== i);
  if (rank >= 0) {
    ranking.splice(Math.min(rank, ranking.length), 0, i);
    if (ranking.length === slots() - 1) ranking.push([...Array(slots()).keys()].find((other) => !ranking.includes(other)));
  }
  draw();
}

function decide(side) {
  if (busy || !item) return;
  ranking = [side, 1 - side];
  draw();
  if (state.reason) at("reason").focus();
}

/** One thing at a time; what fails is said, and the page stays as it was. */
async function act(what) {
  if (busy) return;
  busy = true;
  draw();
  try {
    await what();
  } catch (error) {
    fail(error.message, true);
  } finally {
    busy = false;
    at("go").textContent = "Next";
    draw();
  }
}

function fail(message, reload) {
  at("trouble").textContent = message;
  at("retry").hidden = !reload;
  at("error").hidden = false;
}

function undo() {
  if (busy) return;
  if (ranking.length > 0) {
    // The last place follows from the others, so one step back frees two.
    ranking = isRanking() ? ranking.slice(0, ranking.length === slots() ? -2 : -1) : [];
    draw();
  } else if (place > 0) {
    act(() => show(place - 1));
  }
}

async function next() {
  at("go").textContent = "Saving …";
  const seconds = Math.min(99999, (performance.now() - began) / 1000);
  try {
    state = await ask("vote", { item: item.item, ranking, reason: at("reason").value, seconds });
  } catch (error) {
    return fail(`Not saved. ${error.message} Press Next again.`, false);
  }
  await show(place + 1);
}

function finish() {
  [item, place, ranking] = [undefined, state.total, []];
  count();
  at("task").textContent = state.total > 0 ? "Thank you: that was all. You may close this page." : "There is nothing to judge under this link.";
  for (const id of ["prompt", "ranks", "verdict", "why", "error", "zoom", "next"]) at(id).hidden = true;
  at("buttons").hidden = state.total === 0;
  at("rows").replaceChildren();
  at("said").textContent = "";
  at("task").focus({ preventScroll: true });
}

at("undo").addEventListener("click", undo);
at("next").addEventListener("click", () => act(next));
at("left").addEventListener("click", () => decide(0));
at("right").addEventListener("click", () => decide(1));
at("zoom").addEventListener("click", () => zoom.set(!zoom.on));
at("retry").addEventListener("click", () => location.reload());
at("reason").addEventListener("input", draw);
addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); }); // Back may bring an old page

const ARROWS = { ArrowLeft: [-8, 0], ArrowRight: [8, 0], ArrowUp: [0, -8], ArrowDown: [0, 8] };

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (event.target === at("reason")) {
    if (event.key === "Escape") at("reason").blur();
    return;
  }
  const button = event.target.closest?.("button");
  if (event.key === "Enter" && button && !button.matches(".choice, #next") && !event.repeat) return; // presses that button
  if (ARROWS[event.key] && !(item && zoom.on)) return; // scrolls
  const number = Number(event.key);
  const action = {
    Enter: () => at("next").click(), // nothing while it is disabled
    Backspace: () => at("undo").click(),
    z: () => item && zoom.set(!zoom.on),
    ...(item && number >= 1 && number <= slots() ? { [event.key]: () => (isRanking() ? pick(number - 1) : decide(number - 1)) } : {}),
    ...(ARROWS[event.key] ? { [event.key]: () => zoom.move(...ARROWS[event.key]) } : {}),
  }[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!action) return;
  event.preventDefault();
  if (!event.repeat || ARROWS[event.key]) action(); // a key that is held down acts once
});

act(async () => {
  state = await ask("state");
  await show(state.place);
});
