// Failures counted by type and error, the most frequent first.
const MAX_GROUPS = 50, failures = {groups: new Map(), unlisted: 0, now: 0};
const ago = at => {
  const seconds = Math.max(0, failures.now - at);
  return seconds < 1 ? "now" : span(seconds < 100 ? Math.round(seconds) : seconds).replace(".0 s", " s") + " ago";
};
const FAILURES = [
  {name: "error", value: one => one.error || "no reason was given"},
  {name: "type", value: one => one.event_type},
  {name: "count", value: one => count(one.count), kind: "number", bad: () => true},
  {name: "first seen", value: one => ago(one.first), kind: "number"},
  {name: "last seen", value: one => ago(one.last), kind: "number"},
  {name: "last event id", value: one => one.last_event_id, kind: "id"}];
const failureDetails = one => [
  ["the last one", one.last_error], ["cause", one.cause.replace("_", " ")], ["queue", one.last_queue],
  ["first seen", new Date(1000 * one.first).toLocaleString("en-GB")],
  ["last seen", new Date(1000 * one.last).toLocaleString("en-GB")], ["last event id", one.last_event_id]];
const groupKey = one => `${one.event_type}\n${one.error}`;
function showFailures() {
  for (const [key, one] of failures.groups) if (one.last < failures.now - HOUR) failures.groups.delete(key);
  const groups = [...failures.groups.values()].sort((one, other) => other.last - one.last).slice(0, MAX_GROUPS);
  groups.sort((one, other) => other.count - one.count || other.last - one.last);
  put($("unlisted"), failures.unlisted ? `and ${count(failures.unlisted)} of other kinds` : "");
  table("failures", FAILURES, groups, groupKey, failureDetails);
}
learns.push(part => {
  for (const one of part.failures) failures.groups.set(groupKey(one), one);
  failures.unlisted = part.unlisted;
  showFailures();
});
shows.push(snapshot => {
  failures.now = snapshot.taken;
  showFailures();
});
