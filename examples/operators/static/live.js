// Updates the figures in the page as they arrive.
const source = new EventSource("/live");

source.addEventListener("figures", (event) => {
  for (const [name, value] of Object.entries(JSON.parse(event.data))) {
    const cell = document.querySelector(`[data-figure="${name}"]`);
    if (cell) cell.textContent = value.toLocaleString();
  }
});

// Closed for good: the login has expired. Otherwise the browser reconnects by itself.
source.addEventListener("error", () => {
  if (source.readyState === EventSource.CLOSED) location.reload();
});
