// Dead letters: a look at a sample, and moves. The token is kept for this tab alone, and sent in a header only; the
// filters stand behind the # of the URL, which no server sees.
{
const MOST = 1000, FIELDS = ["type", "reason", "text"], TOKEN_PLACE = "millpond token " + location.pathname;
const LETTERS = [
  {name: "type", value: one => one.type}, {name: "reason", value: one => one.problem, kind: "long"},
  {name: "attempts", value: one => one.attempts || "?", kind: "number"},
  {name: "age", value: one => span(one.age_seconds), kind: "number"}, {name: "id", value: one => one.id.slice(0, 8)}];
const letterDetails = one => [["id", one.id], ["event id", one.event_id], ["reason", one.problem],
  ["replayed before", one.replays ? `${count(one.replays)} times` : ""], ["body", one.body]];
const GROUPS = [
  {name: "type", value: one => one.type}, {name: "error", value: one => one.error, kind: "long"},
  {name: "count", value: one => count(one.count), kind: "number"},
  {name: "first seen", value: one => span(one.first_seconds) + " ago", kind: "number"},
  {name: "last seen", value: one => span(one.last_seconds) + " ago", kind: "number"}];
const groupDetails = one => [["error", one.error]];
const ANSWERS = {400: "the worker did not understand the order", 401: "the token is not right: give the one of [http] token",
  403: "the worker takes no orders from this origin", 404: "there is no such queue, or its dead-letter queue is not known",
  405: "this worker has no token set: nothing can be changed by its page", 421: "the worker does not go by this name"};
let desk = {queues: [], can_act: false, move: null}, looked = null, isBusy = false, askedFor = "", asking = 0;
const say = (text, isBad) => { put($("letters-said"), text); $("letters-said").className = isBad ? "bad" : ""; };
const filters = () => {
  const [type, reason, text] = FIELDS.map(name => $("letters-" + name).value.trim());
  return {types: type ? [type] : [], reason, text};
};
const chosen = () => [...$("letters-rows").querySelectorAll("input:checked")].map(box => box.value);
const isMoving = () => desk.move !== null && desk.move.state === "moving";
async function post(path, order) {
  const headers = {"Content-Type": "application/json"}, token = $("letters-token").value.trim();
  if (token) headers.Authorization = "Bearer " + token;
  let answer;
  try {
    answer = await fetch("letters/" + path, {method: "POST", headers, body: JSON.stringify(order)});
  } catch {
    throw new Error("the worker does not answer");
  }
  if (answer.status === 401 && !token) throw new Error("give the token: [http] token of this worker's settings (HTTP_TOKEN)");
  if (ANSWERS[answer.status]) throw new Error(ANSWERS[answer.status]);
  // What is no JSON comes from a proxy, or the worker failed.
  const fields = await answer.json().catch(() => ({error: `the answer is ${answer.status} without JSON: see the log of the worker, or of the proxy before it`}));
  if (fields.error) throw new Error(fields.error);
  return fields;
}
async function attempt(doing, act) {
  if (isBusy) return;
  isBusy = true;
  say(doing);
  draw();
  try {
    await act();
  } catch (error) {
    say(error.message, true);
  } finally {
    isBusy = false;
    draw();
  }
}
const look = queue => attempt(`looking at a sample of ${queue} ...`, async () => {
  const order = {queue, ...filters()}, found = await post("look", order);
  looked = {order, filters: JSON.stringify(filters())};
  remember(queue);
  table("letters-groups", GROUPS, found.groups, one => `${one.type} ${one.error}`, groupDetails);
  table("letters-rows", LETTERS, found.letters, one => one.id, letterDetails);
  for (const [id, line] of $("letters-rows").rowsByKey) withBox(line.body.querySelector("th"), id);
  for (const line of $("letters-groups").rowsByKey.values()) withOnly(line);
  const hidden = found.hidden ? `; ${found.hidden} stay hidden from others for 30 s` : "";
  say(`${queue}: ${found.summary}; ${count(found.matching)} of these match, ${count(found.letters.length)} are shown${hidden}`);
});
function withBox(cell, id) {
  const box = cell.querySelector("input") || document.createElement("input");
  Object.assign(box, {type: "checkbox", value: id, checked: false, ariaLabel: "select " + id});
  box.onchange = draw;
  cell.prepend(box);
}
function withOnly(line) {
  const cell = line.body.querySelector("th");
  const isHidden = line.row.type.includes("***");
  if (cell.querySelector(".only") || isHidden) return;
  const button = element("button", "only these", "only");
  button.type = "button";
  button.onclick = () => {
    // Of a normalised error the longest part that is in every one of them.
    const parts = line.row.error.split(/<(?:text|url|address|id|n)>|\*\*\*|\\/).map(part => part.trim());
    $("letters-type").value = line.row.type;
    $("letters-reason").value = parts.reduce((one, other) => other.length > one.length ? other : one, "").slice(0, 200);
    look(looked.order.queue);
  };
  cell.append(button);
}
function orderOf(kind, isSelected) {
  if (isSelected) return {do: kind, queue: looked.order.queue, ids: chosen(), most: chosen().length};
  const most = Math.min(MOST, Math.max(1, Math.floor(Number($("letters-most").value)) || 1)), wanted = looked.order;
  const isAll = !wanted.types.length && !wanted.reason && !wanted.text;
  return {do: kind, ...wanted, most, ...(isAll ? {all: true} : {})};
}
function describeOrder(order) {
  if (order.ids) return `the ${order.ids.length} selected dead letters of ${order.queue}`;
  const parts = [order.types[0] && `type ${order.types[0]}`, order.reason && `reason ${order.reason}`, order.text && `text ${order.text}`];
  return `at most ${count(order.most)} dead letters of ${order.queue}` +
    (order.all ? ", whichever they are" : ", those with " + parts.filter(Boolean).join(", "));
}
function begin(kind, isSelected) {
  const order = orderOf(kind, isSelected);
  if (kind === "replay") return move(order);
  put($("letters-sure-text"), `Delete ${describeOrder(order)}, for good?`);
  $("letters-delete").onclick = () => { $("letters-sure").close(); move(order); };
  $("letters-sure").showModal();
}
const move = order => attempt(`${order.do} of ${describeOrder(order)} ...`, async () => {
  desk.move = (await post("move", order)).move;
  draw();
  $("letters-move").focus();
  follow();
});
// Ask for the state now, and again while a move goes on.
async function follow() {
  clearTimeout(asking);
  const wasMoving = isMoving();
  try {
    const answer = await fetch("letters");
    if (answer.ok) desk = await answer.json();
  } catch { /* the stream says that the worker does not answer */ }
  if (wasMoving && !isMoving()) {
    looked = null;
    say("Look again to see what is left.");
  }
  if (isMoving()) asking = setTimeout(follow, 500);
  draw();
}
function draw() {
  $("letters-locked").hidden = desk.can_act;
  $("letters-form").hidden = !desk.can_act;
  drawQueues();
  drawMove();
  const isStale = looked !== null && looked.filters !== JSON.stringify(filters()), isOff = isBusy || isMoving();
  $("letters-found").hidden = looked === null;
  put($("letters-stale"), isStale ? "The filters have changed: look again before you move what matches." : "");
  const number = chosen().length;
  for (const button of $("letters-found").querySelectorAll("button[data-do]")) {
    const isSelected = button.dataset.of === "selected";
    button.disabled = isOff || (isSelected ? !number : isStale);
  }
  put($("letters-number"), number ? `${count(number)} selected` : "");
}
function drawQueues() {
  const names = desk.queues.join("\n");
  if ($("letters-queues").dataset.names !== names) {
    $("letters-queues").dataset.names = names;
    $("letters-queues").replaceChildren(...desk.queues.map(name => {
      const button = element("button", `Look at ${name}`);
      button.type = "button";
      button.onclick = () => look(name);
      return button;
    }));
    put($("letters-none"), desk.queues.length ? "" : "no dead-letter queue is known of any queue");
  }
  for (const button of $("letters-queues").children) button.disabled = isBusy || isMoving();
}
function drawMove() {
  const now = desk.move;
  $("letters-move").hidden = now === null;
  if (now === null) return;
  const parts = [`${count(now.moved)} ${now.do === "replay" ? "replayed" : "discarded"}`, `${count(now.refused)} kept`,
    now.uncertain && `${count(now.uncertain)} kept that may have been sent as well`, now.left && `${count(now.left)} done and not deleted`,
    now.missing && `${count(now.missing)} not found`, now.newer && `${count(now.newer)} newer ones left alone`];
  const state = now.stopping ? "stopping" : {moving: "goes on", done: "is done", failed: "has failed"}[now.state];
  put($("letters-progress"), `The ${now.do} of dead letters of ${now.queue} ${state}: ${parts.filter(Boolean).join(", ")}; ` +
    `looked at ${count(now.looked)}${now.why ? `. It ended early: ${now.why}` : ""}`);
  $("letters-progress").className = now.state === "failed" || now.why ? "bad" : "";
  $("letters-bar").max = now.most;
  $("letters-bar").value = now.state === "moving" ? now.moved : now.most;
  $("letters-stop").hidden = now.state !== "moving";
  $("letters-stop").disabled = now.stopping;
  const reasons = new Map();
  for (const [id, why] of now.kept) reasons.set(why, [...(reasons.get(why) || []), id.slice(0, 8)]);
  const lines = [...reasons].map(([why, ids]) => `${ids.length} kept: ${why} (${ids.slice(0, 5).join(", ")}${ids.length > 5 ? ", ..." : ""})`);
  $("letters-kept").replaceChildren(...lines.map(line => element("li", line)));
}
function remember(queue) {
  const wanted = new URLSearchParams();
  if (queue) wanted.set("letters", queue);
  for (const name of FIELDS) if ($("letters-" + name).value.trim()) wanted.set(name, $("letters-" + name).value.trim());
  askedFor = queue;
  history.replaceState(null, "", location.pathname + location.search + (wanted.size ? "#" + wanted : ""));
}
function recall() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  askedFor = wanted.get("letters") || "";
  for (const name of FIELDS) $("letters-" + name).value = wanted.get(name) || "";
  if (askedFor) say(`This link means the dead letters of ${askedFor}: give the token, and press its button.`);
  draw();
}
for (const name of FIELDS) $("letters-" + name).addEventListener("input", () => { remember(askedFor); draw(); });
// A browser may forbid its storage: then a reload forgets.
const kept = act => { try { return act(); } catch { return ""; } };
$("letters-token").value = kept(() => sessionStorage.getItem(TOKEN_PLACE)) || "";
$("letters-token").addEventListener("input", () =>
  kept(() => sessionStorage.setItem(TOKEN_PLACE, $("letters-token").value.trim())));
$("letters-form").addEventListener("submit", event => {
  event.preventDefault();
  const queue = desk.queues.includes(askedFor) ? askedFor : desk.queues[0];
  if (queue) look(queue);
});
for (const button of document.querySelectorAll("#letters-found button[data-do]"))
  button.addEventListener("click", () => begin(button.dataset.do, button.dataset.of === "selected"));
$("letters-all").addEventListener("click", () => {
  const boxes = [...$("letters-rows").querySelectorAll("input")], isOn = boxes.some(box => !box.checked);
  for (const box of boxes) box.checked = isOn;
  draw();
});
$("letters-keep").addEventListener("click", () => $("letters-sure").close());
$("letters-stop").addEventListener("click", () => post("stop", {}).then(follow, error => say(error.message, true)));
addEventListener("hashchange", recall);
recall();
follow();
let seen = "";
shows.push(snapshot => {
  const now = `${snapshot.worker.pid} ${snapshot.worker.state} ${snapshot.queues.map(one => one.name)}`;
  if (now === seen && (desk.queues.length || snapshot.taken % 10 > 1)) return;
  seen = now;
  follow();
});
}
