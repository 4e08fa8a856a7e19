// Before anything is painted: the theme that was chosen here last time.
try {
  const chosen = localStorage.getItem("theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch (_) { /* storage is switched off: the system's theme it is */ }
