"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const LEVELS = data.levels; // weight of other tokens from which on each shade is used
  const list = byId("list"), tip = byId("tip");
  const items = [...list.children];
  const state = { lam: 0.5, temperature: 0 };

  // A token's data: [its name, p(original) and the p of each entry at each temperature, names of the entries].
  const entry = (token) => data.sentences[token.closest("li").dataset.n][token.dataset.n];

  // What a student reads: (1 - lam) on the token itself, lam * p on the entries. One that the teacher left out of its entries gets no p.
  function mix([own, originals, ps, names]) {
    const { lam, temperature } = state;
    const p = ps[temperature];
    const rows = names.map((name, i) => ({ name: data.names[name], p: p[i], s: lam * p[i] + (name === own ? 1 - lam : 0), own: name === own }));
    if (!names.includes(own)) rows.push({ name: data.names[own], p: originals[temperature], s: 1 - lam, own: true, left: true });
    const told = p.reduce((sum, x) => sum + x, 0);
    return { rows: rows.sort((a, b) => b.s - a.s || b.p - a.p), original: originals[temperature], rest: Math.max(0, 1 - told) };
  }

  function shade(token) {
    const own = mix(entry(token)).rows.find((row) => row.own);
    const level = LEVELS.filter((least) => 1 - own.s >= least).length;
    token.className = `t s${level}${token.classList.contains("on") ? " on" : ""}`;
  }

  const tokens = [...list.querySelectorAll(".t")];
  const shadeAll = () => { tokens.forEach(shade); if (shown) show(shown); };

  // ---- the box beside a token
  let shown = null, leaving = 0;
  function element(kind, className, text) {
    const made = document.createElement(kind);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }
  const number = (p) => (p >= 0.9995 ? "1.000" : p < 0.0005 ? "0" : p.toFixed(3));

  function fill(token) {
    const { rows, original, rest } = mix(entry(token));
    const what = element("p", "what");
    what.append(element("b", "", token.textContent), ` the teacher gives it ${number(original)}`);
    if (rows.some((row) => row.left)) what.append(", below the entries that are stored");
    const table = element("table");
    const head = table.createTHead().insertRow();
    for (const [name, className] of [["token", "w"], ["bar: student, line: teacher", "m"], ["teacher", "n"], ["student", "n"]]) {
      const cell = head.appendChild(element("th", className, name));
      cell.scope = "col";
    }
    const body = table.createTBody();
    const line = (name, p, s, className) => {
      const row = body.insertRow();
      row.className = className;
      const first = row.appendChild(element("th", "w", name));
      first.scope = "row";
      const meter = element("div", "meter");
      meter.setAttribute("aria-hidden", "true");
      meter.appendChild(element("i")).style.width = `${100 * s}%`;
      if (p >= 0.02) meter.appendChild(element("u")).style.left = `${100 * Math.min(p, 0.99)}%`; // thinner than the mark itself
      row.insertCell().append(meter);
      row.append(element("td", "n", number(p)), element("td", "n", number(s)));
    };
    for (const row of rows) line(row.name, row.p, row.s, row.own ? "own" : "");
    const left = rows.some((row) => row.left) ? Math.max(0, rest - original) : rest;
    line("all others", left, state.lam * rest, "rest");
    tip.replaceChildren(what, table);
  }

  function show(token) {
    clearTimeout(leaving);
    if (shown && shown !== token) release(shown);
    shown = token;
    fill(token);
    token.classList.add("on");
    token.setAttribute("aria-describedby", "tip");
    tip.hidden = false;
    const at = token.getClientRects()[0], box = tip.getBoundingClientRect(), page = document.documentElement;
    const below = page.clientHeight - at.bottom - 10 >= box.height || at.top - 10 < box.height;
    const left = Math.max(8, Math.min(at.left + at.width / 2 - box.width / 2, page.clientWidth - box.width - 8));
    tip.style.left = `${left + scrollX}px`;
    tip.style.top = `${(below ? at.bottom + 8 : at.top - box.height - 8) + scrollY}px`;
  }

  function release(token) {
    token.classList.remove("on");
    token.removeAttribute("aria-describedby");
  }

  function hide() {
    clearTimeout(leaving);
    if (shown) release(shown);
    shown = null;
    tip.hidden = true;
  }

  const isToken = (target) => target instanceof Element && target.classList.contains("t") && list.contains(target);
  list.addEventListener("pointerover", (event) => { if (isToken(event.target)) show(event.target); });
  list.addEventListener("pointerout", (event) => {
    if (!isToken(event.target)) return;
    clearTimeout(leaving);
    leaving = setTimeout(() => { isToken(document.activeElement) ? show(document.activeElement) : hide(); }, 200);
  });
  tip.addEventListener("pointerenter", () => clearTimeout(leaving));
  tip.addEventListener("pointerleave", () => { leaving = setTimeout(() => { if (!isToken(document.activeElement)) hide(); }, 200); });
  list.addEventListener("click", (event) => { if (isToken(event.target)) go(event.target); });
  list.addEventListener("focusin", (event) => { if (isToken(event.target)) show(event.target); });
  list.addEventListener("focusout", hide);
  addEventListener("resize", () => { if (shown) show(shown); });

  // ---- keys: one stop per sentence, arrows within it and between sentences
  const inside = (item) => [...item.querySelectorAll(".t")];
  function go(token) {
    for (const other of inside(token.closest("li"))) other.tabIndex = other === token ? 0 : -1;
    token.focus();
  }
  for (const item of items) { const first = inside(item)[0]; if (first) first.tabIndex = 0; }

  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && shown) { hide(); event.preventDefault(); return; }
    if (!isToken(event.target) || event.ctrlKey || event.metaKey || event.altKey) return;
    const item = event.target.closest("li"), here = inside(item), at = here.indexOf(event.target);
    const visible = items.filter((other) => !other.hidden && inside(other).length), row = visible.indexOf(item);
    const turned = getComputedStyle(event.target.parentElement).direction === "rtl" ? -1 : 1;
    const beside = (step) => { const there = visible[row + step]; return there && inside(there)[Math.min(at, inside(there).length - 1)]; };
    const target = {
      ArrowRight: () => here[at + turned], ArrowLeft: () => here[at - turned], Home: () => here[0], End: () => here.at(-1),
      ArrowDown: () => beside(1), ArrowUp: () => beside(-1), Enter: () => event.target, " ": () => event.target,
    }[event.key];
    if (!target) return;
    event.preventDefault();
    const found = target();
    if (found) { go(found); show(found); }
  });

  // ---- controls
  const fold = (text) => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase().replace(/\s+/g, " ").trim();
  const isText = (node) => !(node instanceof Element && node.classList.contains("plain"));
  const texts = items.map((item) => fold([...item.querySelector(".s").childNodes].filter(isText).map((node) => node.textContent).join("")));
  const status = byId("status"), all = status.textContent;
  function filter() {
    hide();
    const wanted = fold(byId("filter").value);
    let left = 0;
    items.forEach((item, i) => { item.hidden = !texts[i].includes(wanted); left += !item.hidden; });
    status.textContent = wanted ? `${left} of ${items.length} sentences` : all;
  }
  byId("filter").addEventListener("input", filter);
  byId("lam").addEventListener("input", (event) => {
    state.lam = Number(event.target.value);
    byId("lam-out").textContent = state.lam.toFixed(2);
    shadeAll();
  });
  byId("temperature").addEventListener("change", (event) => { state.temperature = event.target.selectedIndex; shadeAll(); });
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  byId("controls").hidden = false;

  // ---- light and dark
  const theme = byId("theme"), root = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);
  const label = () => { theme.textContent = isDark() ? "Light" : "Dark"; theme.setAttribute("aria-label", `Turn the page ${isDark() ? "light" : "dark"}`); };
  try { const kept = localStorage.getItem("textsmooth-theme"); if (kept === "dark" || kept === "light") root.dataset.theme = kept; } catch { /* none on file:// */ }
  theme.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try { localStorage.setItem("textsmooth-theme", root.dataset.theme); } catch { /* not kept */ }
    label();
  });
  dark.addEventListener("change", label);
  label();
  theme.hidden = false;
  shadeAll();
})();
