// What the server cannot do: the theme, the toast, two keys, and cards that glide to their new place.
(() => {
  const root = document.documentElement;

  document.getElementById("theme").addEventListener("click", () => {
    const now = root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
    root.dataset.theme = now === "dark" ? "light" : "dark";
    try { localStorage.setItem("theme", root.dataset.theme); } catch (_) { /* not remembered */ }
  });

  const toast = document.getElementById("toast");
  let hide;
  const say = (text) => {
    toast.textContent = text;
    toast.classList.add("shown");
    clearTimeout(hide);
    hide = setTimeout(() => toast.classList.remove("shown"), 6000);
  };
  document.body.addEventListener("htmx:responseError", (event) => {
    let text = `The server answered ${event.detail.xhr.status}.`;
    try { text = JSON.parse(event.detail.xhr.responseText).detail; } catch (_) { /* not a problem document */ }
    say(text);
  });
  document.body.addEventListener("htmx:sendError", () => say("The server does not answer; is it running?"));

  // One name a card lets the browser animate it from its old rank to its new one.
  const name = () => {
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
    document.querySelectorAll("#cards .card").forEach((card) => {
      let hash = 5381;
      for (const letter of card.dataset.item) hash = ((hash * 33) ^ letter.codePointAt(0)) >>> 0;
      card.style.viewTransitionName = `card-${hash}-${card.dataset.item.length}`;
    });
  };
  document.body.addEventListener("htmx:afterSwap", name);
  name();

  document.addEventListener("keydown", (event) => {
    const search = document.getElementById("q") || document.getElementById("uq");
    if (!search) return;
    if (event.key === "/" && !/^(INPUT|TEXTAREA)$/.test(document.activeElement.tagName)) {
      event.preventDefault();
      search.focus();
    }
    if (event.key === "Escape" && document.getElementById("found")) {
      document.getElementById("found").replaceChildren();
      search.value = "";
    }
  });
})();
