"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const panel = document.getElementById("panel");

  // Texts are inserted as text nodes only, so that no content of a file can become markup.
  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (typeof value === "function") element.addEventListener(name, value);
      else if (value !== null && value !== undefined) element.setAttribute(name, value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  };

  /* ---- sorting: each column in both directions, then the original order; means stay at the bottom ---- */

  const originals = new WeakMap();
  const keyOf = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.sort ?? cell.textContent.trim();
  };
  const compare = (numeric, column, sign) => (a, b) => {
    const [x, y] = [keyOf(a, column), keyOf(b, column)];
    if (numeric) {
      const [p, q] = [parseFloat(x), parseFloat(y)];
      if (Number.isNaN(p) || Number.isNaN(q)) return Number.isNaN(p) - Number.isNaN(q);
      return sign * (p - q);
    }
    return sign * x.localeCompare(y, "en", { numeric: true });
  };
  const sort = (header) => {
    const table = header.closest("table");
    const bodies = [...table.tBodies];
    if (!originals.has(table)) originals.set(table, bodies.map((body) => [...body.rows]));
    const before = originals.get(table);
    const numeric = header.classList.contains("n");
    const order = numeric ? ["descending", "ascending", "none"] : ["ascending", "descending", "none"];
    const next = order[(order.indexOf(header.getAttribute("aria-sort")) + 1) % 3];
    for (const other of table.querySelectorAll("th[aria-sort]")) other.setAttribute("aria-sort", "none");
    header.setAttribute("aria-sort", next);
    if (next === "none") {
      bodies.forEach((body, k) => { body.append(...before[k]); body.hidden = false; });
      return;
    }
    const rows = before.flat();
    const by = compare(numeric, header.cellIndex, next === "ascending" ? 1 : -1);
    bodies[0].append(...rows.filter((row) => !row.classList.contains("mean")).sort(by));
    bodies[bodies.length - 1].append(...rows.filter((row) => row.classList.contains("mean")).sort(by));
    for (const body of bodies) body.hidden = body.rows.length === 0;
  };

  /* ---- keyboard: one stop per table, arrows from number to number ---- */

  const numbers = (table) => [...table.querySelectorAll("tbody td button")];
  for (const table of document.querySelectorAll("main table")) {
    numbers(table).forEach((button, k) => { button.tabIndex = k ? -1 : 0; });
  }
  const step = (button, down, right) => {
    const row = button.closest("tr");
    if (right) {
      const all = [...row.querySelectorAll("td button")];
      return all[all.indexOf(button) + right];
    }
    const rows = [...row.closest("table").querySelectorAll("tbody tr")];
    const column = button.closest("td").cellIndex;
    for (let k = rows.indexOf(row) + down; rows[k]; k += down) {
      const found = rows[k].cells[column]?.querySelector("button");
      if (found) return found;
    }
    return null;
  };
  const moves = { ArrowDown: [1, 0], ArrowUp: [-1, 0], ArrowRight: [0, 1], ArrowLeft: [0, -1] };
  document.addEventListener("keydown", (event) => {
    const button = event.target.closest?.("main tbody td button");
    if (!button || !moves[event.key]) return;
    const next = step(button, ...moves[event.key]);
    event.preventDefault();
    if (!next) return;
    button.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });

  /* ---- provenance of a number ---- */

  const percent = (value) => {
    if (value === null || value === undefined) return "–";
    return value === "" ? "n/a" : (100 * value).toFixed(data.digits);
  };
  const duration = (seconds) => {
    if (typeof seconds !== "number") return "";
    if (seconds < 60) return `${seconds.toFixed(1)} s`;
    const minutes = Math.round(seconds / 60);
    return minutes < 60 ? `${(seconds / 60).toFixed(1)} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  };
  const metricNames = { image_auroc: "image AUROC", pixel_auroc: "pixel AUROC", pro: "PRO" };
  const metricName = (address) => {
    const [metric, protocol] = address.split("/").reverse();
    const name = metricNames[metric.replace("_official", "")] ?? metric;
    return protocol ? `${name}, ${protocol.replace("_", " ")}` : name;
  };
  const cellsAt = ([dataset, category, variant]) => data.cells.filter(({ at }) => {
    const [name, categories] = data.datasets[at[0]];
    return (dataset === "*" || dataset === name)
      && (category === "mean" || category === categories[at[1]])
      && data.variants[at[3]] === variant;
  });
  const describe = ({ at }) => {
    const [name, categories] = data.datasets[at[0]];
    return [name, categories[at[1]], `seed ${at[2]}`, data.variants[at[3]]];
  };

  const flatten = (value, prefix = "") => {
    if (value === null || typeof value !== "object" || Array.isArray(value)) return [[prefix, value]];
    const entries = Object.entries(value);
    if (!entries.length) return [[prefix, "none"]];
    return entries.flatMap(([key, item]) => flatten(item, prefix ? `${prefix}.${key}` : key));
  };
  const written = (value) => (typeof value === "string" ? value : JSON.stringify(value));
  const list = (entries) => make("dl", {}, ...entries.flatMap(([name, value]) => [
    make("dt", {}, name),
    make("dd", {}, value instanceof Node ? value : written(value)),
  ]));
  const link = (path) => (/^[./]|^[a-z]+:/i.test(path)
    ? document.createTextNode(path)
    : make("a", { href: path.split("/").map(encodeURIComponent).join("/") }, path));

  const record = (stage) => {
    const facts = data.pool[stage.facts];
    const parts = [list([
      ["folder", link(stage.folder)],
      ["finished", stage.finished ?? "not recorded"],
      ["commit", facts.git_commit ?? "outside git"],
      ["device", facts.device ?? "not recorded"],
      ["wall time", duration(stage.wall_s) || "not recorded"],
      ["peak memory", stage.memory === null ? "not recorded" : `${stage.memory} MiB`],
      ...flatten(stage.more).filter(([name]) => name),
    ])];
    if (stage.inputs.length) {
      parts.push(make("h4", {}, "Inputs, with SHA-256"), list(stage.inputs.map(([name, path, digest]) => {
        const text = make("span", {}, data.pool[path], make("br"), data.pool[digest] ?? "no digest");
        return [name, text];
      })));
    }
    for (const [section, at] of Object.entries(stage.params)) {
      parts.push(make("h4", {}, `Parameters: ${section}`), list(flatten(data.pool[at])));
    }
    const versions = Object.entries(facts.versions ?? {});
    if (versions.length) {
      parts.push(make("h4", {}, "Software"), list([["python", facts.python], ...versions]));
    }
    return make("div", { class: "record" }, ...parts);
  };

  const chain = (cell) => {
    if (cell.gap !== undefined) return [gap(cell)];
    if (!cell.chain.length) return [make("p", {}, "No stage.json beside its metrics.json: the provenance is unknown.")];
    const items = cell.chain.map((at) => {
      const stage = data.stages[at];
      const facts = data.pool[stage.facts];
      const details = make("details", {}, make("summary", {},
        make("strong", {}, data.pool[stage.stage]),
        make("span", { class: "n" }, duration(stage.wall_s)),
        make("span", { class: "n" }, stage.memory === null ? "" : `${stage.memory} MiB`),
        make("span", { class: "where" }, `${facts.device ?? ""}  ${(facts.git_commit ?? "").slice(0, 10)}${/\+/.test(facts.git_commit ?? "") ? "+dirty" : ""}`)));
      // Filled on first opening: a chain has hundreds of parameters.
      details.addEventListener("toggle", () => {
        if (details.open && details.children.length === 1) details.append(record(stage));
      });
      return make("li", {}, details);
    });
    const seconds = cell.chain.reduce((sum, at) => sum + (data.stages[at].wall_s ?? 0), 0);
    return [make("p", { class: "quiet panel-of" }, `${items.length} stages, ${duration(seconds)} in total, in the order they ran. Open one for its parameters and inputs.`),
      make("ol", { class: "chain" }, ...items)];
  };
  const gap = (cell) => {
    const reason = data.gaps[cell.gap];
    if (!reason || !reason[0]) return make("p", {}, "Not evaluated: not started yet (no stage before it has failed).");
    const [stage, log, message] = reason;
    return make("div", { class: "gap" }, make("p", {}, `Not evaluated: ${stage} failed. `, link(log)),
      make("pre", {}, message || "The log is empty: killed, or just started."));
  };

  const show = (button) => {
    const row = button.closest("tr");
    const table = button.closest("table");
    const address = JSON.parse(row.dataset.at);
    const field = button.closest("td");
    const heads = table.tHead.rows[table.tHead.rows.length - 1].cells;
    const label = heads[field.cellIndex].dataset.label ?? heads[field.cellIndex].textContent;
    const against = row.dataset.against
      ?? (field.classList.contains("delta") && /Δ$/.test(label) && table.dataset.reference !== address[2] ? table.dataset.reference : "");
    const paper = button.dataset.of === "paper";
    const shown = paper ? [] : button.dataset.of.split(" ").filter(Boolean).map(Number);
    const cells = [...cellsAt(address), ...(against ? cellsAt([address[0], address[1], against]) : [])];
    const [value, small] = [button.querySelector("span").textContent, button.querySelector("small")?.textContent ?? ""];
    const what = [
      address[0] === "*" ? "all datasets" : address[0],
      address[1] === "mean" ? "mean over categories" : address[1],
      against ? `${address[2]} minus ${against}` : address[2],
    ];
    panel.replaceChildren(make("div", { class: "panel-head" },
      make("h2", { id: "panel-title" }, value, " ", make("small", {}, small)),
      make("button", { type: "button", class: "close", click: () => panel.close() }, "Close")),
    make("p", { class: "panel-of" }, make("strong", {}, label), `, ${what.join(", ")}`));
    if (paper) {
      panel.append(make("p", {}, `The paper's number. Source: ${field.title || "see realnet/tables/paper.yaml"}.`));
    } else if (cells.length) {
      behind(cells, shown);
    } else {
      panel.append(make("p", {}, "This number uses no evaluation of this matrix."));
    }
    panel.showModal();
    panel.scrollTop = 0;
  };

  const behind = (cells, shown) => {
    const place = make("div", {});
    const rows = new Map();
    const choose = (cell) => {
      for (const [other, line] of rows) {
        if (other === cell) line.setAttribute("aria-current", "true");
        else line.removeAttribute("aria-current");
      }
      place.replaceChildren(make("h3", {}, describe(cell).join(" / ")), ...chain(cell));
    };
    const columns = shown.length ? shown : [0, 1, 2];
    const bounds = (cell, k) => (cell.intervals?.[k] && k < 3 ? ` [${percent(cell.intervals[k][0])}, ${percent(cell.intervals[k][1])}]` : "");
    const varied = new Set(cells.map(({ at }) => at[0])).size > 1;
    const head = make("tr", {}, ...(varied ? [make("th", {}, "Dataset")] : []), ...["Category", "Seed", "Variant"].map((text) => make("th", {}, text)),
      ...columns.map((k) => make("th", { class: "n" }, metricName(data.shown[k]))));
    const body = make("tbody");
    for (const cell of cells) {
      const words = describe(cell);
      const line = make("tr", {},
        ...(varied ? [make("td", {}, words[0])] : []),
        make("td", {}, make("button", { type: "button", click: () => choose(cell) }, words[1])),
        make("td", {}, String(cell.at[2])), make("td", {}, words[3]),
        ...columns.map((k) => make("td", { class: "n" }, percent(cell.values?.[k]), make("small", {}, bounds(cell, k)))));
      line.addEventListener("click", () => choose(cell));
      rows.set(cell, line);
      body.append(line);
    }
    if (cells.length > 1) {
      panel.append(make("p", { class: "quiet panel-of" }, `From ${cells.length} evaluations. Select one to see its provenance.`));
    }
    panel.append(make("div", { class: "contributions scroll", tabindex: "0", role: "region", "aria-label": "Evaluations" },
      make("table", {}, make("thead", {}, head), body)), place);
    choose(cells.find((cell) => cell.gap !== undefined) ?? cells[0]);
  };

  document.addEventListener("click", (event) => {
    const header = event.target.closest("main th[aria-sort] button");
    if (header) return sort(header.closest("th"));
    const button = event.target.closest("main td button[data-of]");
    if (button) return show(button);
    // The backdrop belongs to the dialog, outside its box.
    if (event.target === panel) {
      const box = panel.getBoundingClientRect();
      if (event.clientX < box.left || event.clientX > box.right) panel.close();
    }
    return undefined;
  });

  /* ---- print folded tables in full ---- */

  let folded = [];
  window.addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("main details:not([open])")];
    for (const element of folded) element.open = true;
  });
  window.addEventListener("afterprint", () => {
    for (const element of folded) element.open = false;
  });
})();
