// Puts the figures into the page as they come.
const source = new EventSource("/live");

source.addEventListener("figures", (event) => {
  for (const [name, value] of Object.entries(JSON.parse(event.data))) {
    const cell = document.querySelector(`[data-figure="${name}"]`);
    if (cell) cell.textContent = value.toLocaleString();
  }
});

// Closed for good: nobody is logged in any more. Otherwise the browser comes again by itself.
source.addEventListener("error", () => {
  if (source.readyState === EventSource.CLOSED) location.reload();
});
