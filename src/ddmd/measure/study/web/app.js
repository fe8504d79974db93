// The study's page: one item at a time, by mouse, touch or keyboard. All text is set as text, never as markup.

import { Zoom } from "./zoom.js";

const at = (id) => document.getElementById(id);
const zoom = new Zoom(at("zoom"));
const ahead = new Map(); // place -> promise of an item, fetched before it is needed
let state, item, ranking, began;

async function ask(path, body) {
  const answer = await fetch(path, body && { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
  const found = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(found.error ?? `The server answered ${answer.status}.`);
  return found;
}

function fetchItem(place) {
  if (!ahead.has(place)) {
    ahead.set(place, ask(`item/${place}`).then((found) => {
      for (const row of found.rows.slice(0, 4)) for (const source of row.images) new Image().src = source;
      return found;
    }));
    ahead.get(place).catch(() => ahead.delete(place));
  }
  return ahead.get(place);
}

function make(tag, options = {}, children = []) {
  const node = Object.assign(document.createElement(tag), options);
  node.append(...children);
  return node;
}

const isRanking = () => state.kind === "ranking";
const slots = () => item.rows[0].images.length;

async function show(place) {
  at("error").textContent = "";
  at("progress").max = state.total;
  at("progress").value = state.done;
  at("count").textContent = `${state.done} of ${state.total}`;
  if (place >= state.total) return finished();
  item = await fetchItem(place);
  ranking = item.answer ? [...item.answer.ranking] : [];
  began = performance.now();
  at("reason").value = item.answer?.reason ?? "";
  at("why").hidden = !state.reason;
  at("ranks").hidden = !isRanking();
  at("verdict").hidden = isRanking();
  at("buttons").hidden = false;
  at("rows").className = isRanking() ? "" : "side";
  at("prompt").hidden = !isRanking();
  at("prompt").textContent = item.rows[0].prompt;
  at("task").textContent = isRanking()
    ? "Put the pictures in order, the best first: click them, drag them, or press their numbers."
    : "Which side is better on the whole? Look at all pairs, then say which and why.";
  at("rows").replaceChildren(...item.rows.map(drawRow));
  zoom.watch([...document.querySelectorAll(".frame")]);
  draw();
  at("rows").querySelector("button")?.focus({ preventScroll: true });
  scrollTo(0, 0);
  if (place + 1 < state.total) fetchItem(place + 1);
}

function drawRow(row) {
  const choices = row.images.map((source, i) => {
    const image = make("img", { src: source, alt: `Picture ${i + 1}: ${row.prompt}`, loading: isRanking() ? "eager" : "lazy", draggable: false });
    const frame = make("span", { className: "frame" }, [image]);
    if (!isRanking()) return make("div", { className: "choice" }, [frame]);
    const badge = make("span", { className: "badge", textContent: i + 1 });
    const choice = make("button", { type: "button", className: "choice", draggable: true }, [frame, badge]);
    choice.addEventListener("click", () => pick(i));
    choice.addEventListener("dragstart", (event) => event.dataTransfer.setData("text/plain", String(i)));
    return choice;
  });
  const words = isRanking() ? [] : [make("p", { className: "prompt", textContent: row.prompt })];
  return make("section", {}, [...words, make("div", { className: "row" }, choices)]);
}

function draw() {
  if (isRanking()) drawRanks();
  else for (const [i, id] of ["left", "right"].entries()) at(id).setAttribute("aria-pressed", String(ranking[0] === i));
  const complete = ranking.length === slots() && (!state.reason || at("reason").value.trim() !== "");
  at("next").disabled = !complete;
  at("undo").disabled = ranking.length === 0 && item.place === 0;
}

function drawRanks() {
  document.querySelectorAll(".choice").forEach((choice, i) => {
    const rank = ranking.indexOf(i);
    choice.classList.toggle("ranked", rank >= 0);
    choice.querySelector(".badge").textContent = rank >= 0 ? `${ordinal(rank)}` : i + 1;
    choice.setAttribute("aria-label", rank >= 0 ? `Picture ${i + 1}, ranked ${rank + 1}` : `Picture ${i + 1}, not ranked`);
  });
  at("ranks").replaceChildren(...Array.from({ length: slots() }, (_, rank) => {
    const slot = make("li", {}, [make("span", { textContent: ordinal(rank) })]);
    if (rank < ranking.length) slot.append(make("img", { src: item.rows[0].images[ranking[rank]], alt: `Picture ${ranking[rank] + 1}` }));
    slot.addEventListener("dragover", (event) => { event.preventDefault(); slot.classList.add("over"); });
    slot.addEventListener("dragleave", () => slot.classList.remove("over"));
    slot.addEventListener("drop", (event) => { event.preventDefault(); place(Number(event.dataTransfer.getData("text/plain")), rank); });
    return slot;
  }));
}

const ordinal = (rank) => (rank === 0 ? "Best" : rank === slots() - 1 ? "Last" : `${rank + 1}.`);

function pick(i) {
  if (ranking.includes(i)) ranking = ranking.filter((other) => other !== i);
  else ranking.push(i);
  if (ranking.length === slots() - 1) ranking.push([...Array(slots()).keys()].find((other) => !ranking.includes(other)));
  draw();
}

function place(i, rank) {
  if (!Number.isInteger(i) || i < 0 || i >= slots()) return;
  ranking = ranking.filter((other) => other !== i);
  ranking.splice(Math.min(rank, ranking.length), 0, i);
  if (ranking.length === slots() - 1) ranking.push([...Array(slots()).keys()].find((other) => !ranking.includes(other)));
  draw();
}

function decide(side) {
  ranking = [side, 1 - side];
  draw();
  if (state.reason) at("reason").focus();
}

async function undo() {
  if (ranking.length > 0) {
    // The last place follows from the others, so one step back frees two.
    ranking = isRanking() ? ranking.slice(0, ranking.length === slots() ? -2 : -1) : [];
    draw();
  } else if (item.place > 0) {
    ahead.delete(item.place - 1); // its answer may be newer than what was fetched
    await show(item.place - 1);
  }
}

async function next() {
  if (at("next").disabled) return;
  at("next").disabled = true;
  try {
    const seconds = Math.min(99999, (performance.now() - began) / 1000);
    state = await ask("vote", { item: item.item, ranking, reason: at("reason").value, seconds });
    ahead.delete(item.place);
    await show(Math.min(item.place + 1, state.total));
  } catch (error) {
    at("error").textContent = `Not saved: ${error.message} Try again.`;
    draw();
  }
}

function finished() {
  if (state.place < state.total) return show(state.place); // something before was left out
  at("task").textContent = "Thank you: that was all. You may close this page.";
  for (const id of ["prompt", "ranks", "verdict", "why", "buttons"]) at(id).hidden = true;
  at("rows").replaceChildren();
}

const guard = (action) => (...values) => Promise.resolve(action(...values)).catch((error) => { at("error").textContent = error.message; });
at("undo").addEventListener("click", guard(undo));
at("next").addEventListener("click", guard(next));
at("left").addEventListener("click", () => decide(0));
at("right").addEventListener("click", () => decide(1));
at("zoom").addEventListener("click", () => zoom.set(!zoom.on));
at("reason").addEventListener("input", draw);

addEventListener("keydown", (event) => {
  if (!item || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target === at("reason")) {
    if (event.key === "Escape") at("reason").blur();
    return;
  }
  const number = Number(event.key);
  const arrows = { ArrowLeft: [-8, 0], ArrowRight: [8, 0], ArrowUp: [0, -8], ArrowDown: [0, 8] };
  if (number >= 1 && number <= slots()) isRanking() ? pick(number - 1) : decide(number - 1);
  else if (event.key === "Backspace") guard(undo)();
  else if (event.key === "Enter" && !at("next").disabled) guard(next)();
  else if (event.key.toLowerCase() === "z") zoom.set(!zoom.on);
  else if (zoom.on && arrows[event.key]) zoom.move(...arrows[event.key]);
  else return;
  event.preventDefault();
});

guard(async () => {
  state = await ask("state");
  await show(state.place);
})();
