// The stream of snapshots, from which all is drawn.
function listen() {
  const stream = new EventSource("events");
  stream.onmessage = event => {
    const snapshot = JSON.parse(event.data);
    for (const show of shows) show(snapshot);
  };
  stream.addEventListener("history", event => {
    const part = JSON.parse(event.data);
    for (const learn of learns) learn(part);
  });
  stream.onerror = () => {
    $("state").textContent = "the worker does not answer: it has ended, it is blocked, or 4 others look at it";
    $("state").className = "bad";
    if (stream.readyState === EventSource.CLOSED) setTimeout(listen, 2000);
  };
}
listen();
