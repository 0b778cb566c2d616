// What is so now: the process, its handlers, its queues, and what runs.
const ended = counts => Object.values(counts).reduce((all, number) => all + number, 0);
const named = (counts, before) =>
  Object.entries(counts).map(([name, number]) => [before + name.replace("_", " "), count(number)]);
const perMinute = minute => minute ? count(Math.round(60 * minute.ended / minute.seconds)) : "0";
const TYPES = [
  {name: "type", value: one => one.event_type},
  {name: "running", value: one => count(one.running) + (one.concurrency ? ` of ${one.concurrency}` : ""), kind: "number"},
  {name: "waiting", value: one => count(one.held), kind: "number"},
  {name: "a minute", value: one => perMinute(one.minute), kind: "number"},
  {name: "failed %", value: one => one.minute ? one.minute.failed_percent.toFixed(1) : "", kind: "number",
    bad: one => one.minute && one.minute.failed},
  {name: "run p50", value: one => one.minute ? duration(one.minute.run_p50) : "", kind: "number"},
  {name: "run p95", value: one => one.minute ? duration(one.minute.run_p95) : "", kind: "number"},
  {name: "succeeded", value: one => count(sum(one.outcomes, ["succeeded"])), kind: "number"},
  {name: "failed", value: one => count(sum(one.causes, FAILED)), kind: "number", bad: one => sum(one.causes, FAILED)},
  {name: "breaker", value: one => one.breaker, bad: one => one.breaker !== "closed"}];
const typeDetails = one => [
  ["handler", one.handler],
  ["limits", [one.rate && `${one.rate} a second`, one.concurrency && `${one.concurrency} at once`].filter(Boolean).join(", ")],
  ["breaker", one.breaker === "closed" ? "" : `${one.breaker}: ${one.breaker_reason}`],
  ["next probe in", one.breaker_seconds ? span(one.breaker_seconds) : ""],
  ["wait p50, p95", one.minute && one.minute.wait_p50 != null
    ? `${duration(one.minute.wait_p50)}, ${duration(one.minute.wait_p95)}` : ""],
  ...named(one.outcomes, ""), ...named(one.causes, "cause: ")];
const QUEUES = [
  {name: "queue", value: one => one.name},
  {name: "state", value: one => one.state, bad: one => one.state !== "receiving"},
  {name: "in hand", value: one => count(one.in_hand), kind: "number"},
  {name: "waiting in SQS", value: one => count(one.depth && one.depth.visible), kind: "number"},
  {name: "oldest there", value: one => span(one.depth && one.depth.oldest_seconds), kind: "number"},
  {name: "dead letters", value: one => count(one.depth && one.depth.dead_letters), kind: "number",
    bad: one => one.depth && one.depth.dead_letters},
  {name: "last receive", value: one => one.last_receive_seconds == null ? "" : span(one.last_receive_seconds) + " ago",
    kind: "number", bad: one => one.failing_receives}];
const queueDetails = one => [
  ["URL", one.url], ["oldest in hand", span(one.oldest_in_hand_seconds)],
  ["ready", count(one.ready)], ["held", count(one.held)], ["polls open", `${one.polls_open} of ${one.pollers}`],
  ["receives failing in a row", one.failing_receives || ""], ["intake", one.intake], ["weight", one.weight],
  ["requests per 1,000 messages", one.requests_per_1000.toFixed(0)],
  ["in flight, SQS says", count(one.depth && one.depth.in_flight)],
  ["delayed, SQS says", count(one.depth && one.depth.delayed)],
  ["received", count(one.received)], ["redelivered", count(one.redelivered)], ["abandoned", one.abandoned || ""],
  ...named(one.outcomes, ""), ...named(one.causes, "cause: ")];
const RUNNING = [
  {name: "event id", value: one => one.event_id},
  {name: "type", value: one => one.event_type},
  {name: "for", value: one => span(one.seconds), kind: "number"},
  {name: "attempt", value: one => one.attempt, kind: "number", bad: one => one.attempt > 1},
  {name: "lease left", value: one => span(one.lease_seconds_left), kind: "number", bad: one => one.lease_seconds_left < 5},
  {name: "stands at", value: one => one.stands_at, kind: "long"}];
const runningDetails = one => [
  ["message id", one.message_id], ["queue", one.queue], ["time limit", one.limit_seconds ? span(one.limit_seconds) : ""],
  ["interrupted", one.interrupted ? "yes" : ""], ["stands at", one.stands_at], ["body", one.body]];
let latest = null;
function running() {
  const wanted = $("filter").value.toLowerCase();
  const rows = latest.running.filter(one =>
    [one.event_type, one.event_id, one.message_id, one.stands_at].some(text => text.toLowerCase().includes(wanted)));
  put($("number"), `${count(latest.running_number)}, the longest first`);
  table("running", RUNNING, rows, one => `${one.queue} ${one.message_id}`, runningDetails);
}
function fact(name, value, isBad) {
  const box = document.createElement("div");
  box.append(element("dt", name), element("dd", value, isBad ? "bad" : ""));
  return box;
}
function showWorker(snapshot) {
  const worker = snapshot.worker, over = value => snapshot.queues.reduce((all, queue) => all + value(queue), 0);
  const failed = over(queue => sum(queue.causes, FAILED)), well = over(queue => sum(queue.outcomes, GOOD));
  document.title = `[${worker.slots_busy}/${worker.slots}] ${worker.name}`;
  put($("name"), worker.name);
  put($("state"), worker.state + (worker.why ? ` (${worker.why})` : ""));
  $("state").className = worker.state === "running" ? "good" : "bad";
  put($("about"), `Millpond ${worker.version}, pid ${worker.pid}, up ${span(worker.uptime_seconds)}`);
  const lost = over(queue => sum(queue.outcomes, ["lease_lost"])), left = over(queue => queue.abandoned);
  $("facts").replaceChildren(
    fact("slots at work", `${count(worker.slots_busy)} / ${count(worker.slots)}`),
    fact("in hand", count(worker.in_hand)), fact("a minute", worker.minute ? perMinute(worker.minute) : ""),
    fact("succeeded", count(well)), fact(failed ? `failed, ${percent(failed, failed + well)}` : "failed", count(failed), failed),
    fact("memory", worker.memory_bytes ? Math.round(worker.memory_bytes / 1e6) + " MB" : "unknown"),
    fact("hub blocked", count(worker.hub_blocked), worker.hub_blocked), fact("stuck", count(worker.stuck), worker.stuck),
    ...lost ? [fact("leases lost", count(lost), true)] : [], ...left ? [fact("not settled", count(left), true)] : []);
}
shows.push(showWorker, snapshot => {
  latest = snapshot;
  table("types", TYPES, snapshot.types, one => one.event_type, typeDetails);
  table("queues", QUEUES, snapshot.queues, one => one.name, queueDetails);
  running();
});
$("filter").value = new URLSearchParams(location.search).get("show") || "";
$("filter").addEventListener("input", () => {
  const wanted = $("filter").value;
  history.replaceState(null, "", (wanted ? "?show=" + encodeURIComponent(wanted) : location.pathname) + location.hash);
  if (latest) running();
});
