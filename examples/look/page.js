'use strict';
(() => {
  const data = JSON.parse(document.getElementById('data').textContent);
  const at = (id) => document.getElementById(id);
  const n = data.num_cells, heads = data.num_q_heads, layers = data.layers.length;
  const groupSize = heads / data.num_kv_heads, triangle = n * (n + 1) / 2;
  const measures = [
    ['entropy', 'Entropy', 'in nats, 0 to ln n'], ['distance', 'Distance', 'tokens back, on average'],
    ['sinks', 'Sinks', 'mass on the first tokens'], ['window', 'Window', 'mass on the last tokens'],
    ['diagonal', 'Diagonal', 'mass on the token itself'], ['previous', 'Previous', 'mass on the token before'],
    ['induction', 'Induction', 'mass after an earlier copy of the token'],
    ['importance', 'Importance', 'loss without the head, less that with all'],
  ].filter(([key]) => key in data.layers[0].heads[0]);
  const state = {layer: 0, head: 0, row: n - 1, column: 0, measure: 'entropy', sort: 'entropy', down: true};
  const decoded = new Map();

  const number = (x, digits = 3) => x === null || x === undefined ? '–' : x.toFixed(digits);
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const shown = (token) => token.replace(/\n/g, '↵').replace(/\t/g, '⇥');
  const tokensOf = (cell) => {
    const first = cell * data.cell, last = Math.min(first + data.cell, data.tokens.length) - 1;
    return last === first ? `“${shown(data.tokens[first])}” (${first})`
                          : `tokens ${first} to ${last}, “${shown(data.tokens[first])}” …`;
  };
  function element(tag, text, parent) {
    const e = document.createElement(tag);
    if (text !== undefined) e.textContent = text;
    if (parent) parent.append(e);
    return e;
  }

  function bytesOf(layer) {
    if (!decoded.has(layer)) {
      decoded.clear();
      decoded.set(layer, Uint8Array.from(atob(data.layers[layer].maps), (c) => c.charCodeAt(0)));
    }
    return decoded.get(layer);
  }
  /** Square root of the mass that a cell of queries puts on one of keys, 0 to 1. */
  const root = (row, column) => column > row ? 0
      : bytesOf(state.layer)[state.head * triangle + row * (row + 1) / 2 + column] / 255;

  /** A canvas in device pixels, drawn in CSS ones. */
  function context(canvas, height) {
    const width = canvas.clientWidth, ratio = window.devicePixelRatio || 1;
    canvas.style.height = `${height}px`;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    const c = canvas.getContext('2d');
    c.scale(ratio, ratio);
    c.font = '11px system-ui, sans-serif';
    return c;
  }

  let heat = {left: 0, top: 0, cell: 1};
  function drawHeat() {
    const canvas = at('heat'), width = canvas.clientWidth;
    const margin = Math.min(90, width / 4), cell = Math.min((width - margin - 2) / n, 22);
    heat = {left: margin, top: margin, cell};
    const c = context(canvas, margin + cell * n + 2), colour = style('--heat');
    c.fillStyle = style('--panel');
    c.fillRect(margin, margin, cell * n, cell * n);
    for (let row = 0; row < n; ++row) {
      for (let column = 0; column <= row; ++column) {
        const value = root(row, column);
        if (value === 0) continue;
        c.fillStyle = `rgb(${colour} / ${value})`;
        c.fillRect(margin + column * cell, margin + row * cell, cell + .3, cell + .3);
      }
    }
    const step = Math.ceil(12 / cell);
    for (let i = 0; i < n; ++i) {
      const rowMarked = i === state.row, columnMarked = i === state.column;
      const label = shown(data.tokens[i * data.cell]);
      // The marked token is always named; its neighbours give way to it.
      if (rowMarked || (i % step === 0 && Math.abs(i - state.row) * cell >= 12)) {
        c.fillStyle = style(rowMarked ? '--mark' : '--text');
        c.textAlign = 'right';
        c.fillText(label, margin - 4, margin + (i + .5) * cell + 4, margin - 6);
      }
      if (columnMarked || (i % step === 0 && Math.abs(i - state.column) * cell >= 12)) {
        c.save();
        c.translate(margin + (i + .5) * cell + 4, margin - 4);
        c.rotate(-Math.PI / 2);
        c.fillStyle = style(columnMarked ? '--mark' : '--text');
        c.textAlign = 'left';
        c.fillText(label, 0, 0, margin - 6);
        c.restore();
      }
    }
    c.strokeStyle = style('--mark');
    c.lineWidth = 1.5;
    c.strokeRect(margin + state.column * cell, margin + state.row * cell, cell, cell);
    const p = root(state.row, state.column) ** 2, group = Math.floor(state.head / groupSize);
    const said = state.column > state.row ? 'comes later: never read' : `${(100 * p).toFixed(p < .1 ? 2 : 1)} %`;
    at('readout').textContent = `Layer ${state.layer}, head ${state.head} (group ${group}): query ` +
        `${tokensOf(state.row)} on key ${tokensOf(state.column)}: ${said}`;
    canvas.setAttribute('aria-label', `Heat map of layer ${state.layer}, head ${state.head}`);
    strip(at('strip'), (cell) => root(state.row, cell), state.row);
  }

  /** The text, each token as dark as it counts. */
  function strip(parent, value, marked) {
    parent.replaceChildren();
    const colour = style('--heat');
    for (let i = 0; i < n; ++i) {
      const text = data.tokens.slice(i * data.cell, (i + 1) * data.cell).join('');
      const span = element('span', text, parent), v = value(i);
      span.style.background = `rgb(${colour} / ${(.7 * v).toFixed(3)})`;
      span.title = `${(100 * v * v).toFixed(2)} %`;
      if (i === marked) span.style.outline = `1px solid ${style('--mark')}`;
    }
  }

  let map = {left: 0, cell: 1, height: 1, gap: 0};
  const mapColumn = (head) => map.left + head * map.cell + Math.floor(head / groupSize) * map.gap;
  function drawMap() {
    const canvas = at('map'), width = canvas.clientWidth, left = 24, top = 28;
    const gap = data.num_kv_heads > 1 ? Math.min(6, width / data.num_kv_heads / 6) : 0;
    const cell = Math.min((width - left - gap * data.num_kv_heads) / heads, 40);
    const height = Math.max(8, Math.min(14, 420 / layers));
    map = {left, top, cell, height, gap};
    const c = context(canvas, top + layers * height + 2), colour = style('--heat');
    const values = data.layers.flatMap((l) => l.heads.map((h) => h[state.measure] ?? 0));
    const least = Math.min(0, ...values), most = Math.max(1e-9, ...values);
    c.fillStyle = style('--text');
    c.textAlign = 'center';
    for (let g = 0; g < data.num_kv_heads; ++g) {
      const x = mapColumn(g * groupSize), w = groupSize * cell;
      c.fillText(w > 52 ? `group ${g}` : `${g}`, x + w / 2, 12, w + gap);
      c.fillRect(x, 18, w - 1, 3);
    }
    c.textAlign = 'right';
    for (let l = 0; l < layers; ++l) {
      if (l % Math.ceil(12 / height) === 0) {
        c.fillStyle = style('--soft');
        c.fillText(l, left - 4, top + l * height + height / 2 + 4);
      }
      for (let h = 0; h < heads; ++h) {
        const v = (data.layers[l].heads[h][state.measure] ?? 0);
        c.fillStyle = `rgb(${colour} / ${.04 + .96 * (v - least) / (most - least)})`;
        c.fillRect(mapColumn(h), top + l * height, cell - 1, height - 1);
      }
    }
    c.strokeStyle = style('--mark');
    c.lineWidth = 2;
    c.strokeRect(mapColumn(state.head), top + state.layer * height, cell - 1, height - 1);
    const [, name, unit] = measures.find(([key]) => key === state.measure);
    at('map-readout').textContent = `Layers down, heads across, groups of ${groupSize} apart. ${name} (${unit}): ` +
        `${number(least)} (faint) to ${number(most)} (strong); layer ${state.layer}, head ${state.head}: ` +
        number(data.layers[state.layer].heads[state.head][state.measure]);
    canvas.setAttribute('aria-label', `${name} of every head`);
  }

  function headTable() {
    const columns = [['layer', 'Layer'], ['head', 'Head'], ['group', 'Group'], ...measures];
    const row = element('tr', undefined, (at('heads').tHead.replaceChildren(), at('heads').tHead));
    for (const [key, name, unit] of columns) {
      const th = element('th', undefined, row);
      th.scope = 'col';
      if (state.sort === key) th.setAttribute('aria-sort', state.down ? 'descending' : 'ascending');
      const button = element('button', name + (state.sort === key ? (state.down ? ' ↓' : ' ↑') : ''), th);
      button.type = 'button';
      button.dataset.key = key;
      if (unit) button.title = unit;
      button.onclick = () => {
        state.down = state.sort === key ? !state.down : key !== 'layer';
        state.sort = key;
        if (measures.some(([m]) => m === key)) at('measure').value = state.measure = key;
        headTable();
        drawMap();
        at('heads').querySelector(`button[data-key=${key}]`).focus();
      };
    }
    const all = data.layers.flatMap((l, layer) => l.heads.map((h, head) => ({...h, layer, head})))
                    .filter((h) => !at('only').checked || h.layer === state.layer);
    const value = (h) => h[state.sort] ?? -Infinity;
    all.sort((a, b) => (state.down ? -1 : 1) * (value(a) - value(b) || 0) || a.layer - b.layer || a.head - b.head);
    const body = at('heads').tBodies[0];
    body.replaceChildren(...all.map((h) => {
      const tr = document.createElement('tr');
      tr.dataset.place = `${h.layer} ${h.head}`;
      for (const [key] of columns) element('td', key === 'layer' || key === 'head' || key === 'group' ? h[key] : number(h[key]), tr);
      tr.onclick = () => choose(h.layer, h.head);
      return tr;
    }));
    markRow();
  }
  function markRow() {
    for (const tr of at('heads').tBodies[0].rows)
      tr.className = tr.dataset.place === `${state.layer} ${state.head}` ? 'chosen' : '';
    [...at('layers').tBodies[0].rows].forEach((tr, l) => { tr.className = l === state.layer ? 'chosen' : ''; });
  }

  function fillTable(id, names, rows) {
    const head = element('tr', undefined, at(id).tHead);
    for (const name of names) element('th', name, head).scope = 'col';
    for (const row of rows) {
      const tr = element('tr', undefined, at(id).tBodies[0]);
      for (const cell of row) element('td', cell, tr);
    }
  }

  function choose(layer, head) {
    const other = layer !== state.layer;
    state.layer = Math.max(0, Math.min(layers - 1, layer));
    state.head = Math.max(0, Math.min(heads - 1, head));
    at('layer').value = state.layer;
    at('head').value = state.head;
    if (other && at('only').checked) headTable();
    draw();
  }
  function draw() {
    drawHeat();
    drawMap();
    markRow();
    const made = data.layers[state.layer].rollout_of_last_token;
    at('rollout-part').hidden = made.length !== n;
    if (made.length === n) strip(at('rollout'), (i) => Math.sqrt(made[i]), n - 1);
  }

  /** Which cell of the heat map an event is on, if any. */
  function point(event) {
    const box = at('heat').getBoundingClientRect();
    const column = Math.floor((event.clientX - box.left - heat.left) / heat.cell);
    const row = Math.floor((event.clientY - box.top - heat.top) / heat.cell);
    if (row < 0 || column < 0 || row >= n || column >= n) return;
    if (row === state.row && column === state.column) return;
    Object.assign(state, {row, column});
    drawHeat();
  }
  at('heat').addEventListener('pointermove', point);
  at('heat').addEventListener('pointerdown', point);
  function key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const moves = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]};
    const steps = {j: [1, 0], k: [-1, 0], n: [0, 1], p: [0, -1]};
    if (moves[event.key] && event.currentTarget.id === 'heat') {
      const [down, right] = moves[event.key];
      state.row = Math.max(0, Math.min(n - 1, state.row + down));
      state.column = Math.max(0, Math.min(n - 1, state.column + right));
      drawHeat();
    } else if (moves[event.key] ?? steps[event.key]) {
      const [layer, head] = moves[event.key] ?? steps[event.key];
      choose(state.layer + layer, state.head + head);
    } else {
      return;
    }
    event.preventDefault();
  }
  at('heat').addEventListener('keydown', key);
  at('map').addEventListener('keydown', key);
  at('map').addEventListener('pointerdown', (event) => {
    const box = at('map').getBoundingClientRect(), x = event.clientX - box.left;
    const layer = Math.floor((event.clientY - box.top - map.top) / map.height);
    for (let h = 0; h < heads; ++h)
      if (x >= mapColumn(h) && x < mapColumn(h) + map.cell && layer >= 0 && layer < layers) choose(layer, h);
  });

  data.layers.forEach((_, l) => { element('option', l, at('layer')).value = l; });
  for (let g = 0; g < data.num_kv_heads; ++g) {
    const group = element('optgroup', undefined, at('head'));
    group.label = `group ${g}`;
    for (let h = g * groupSize; h < (g + 1) * groupSize; ++h) element('option', h, group).value = h;
  }
  for (const [key, name, unit] of measures) element('option', `${name}: ${unit}`, at('measure')).value = key;
  at('layer').onchange = () => choose(+at('layer').value, state.head);
  at('head').onchange = () => choose(state.layer, +at('head').value);
  at('measure').onchange = () => {
    state.measure = state.sort = at('measure').value;
    state.down = true;
    headTable();
    drawMap();
  };
  at('only').onchange = headTable;

  at('about').textContent = `${data.model}: ${layers} layers, ${heads} query heads in ${data.num_kv_heads} ` +
      `groups that share keys and values; ${data.tokens.length} tokens` +
      (data.cell > 1 ? `, ${data.cell} a cell.` : '.');
  at('groups').textContent = 'Jensen-Shannon divergence between the probabilities of two heads, from 0 (the same) ' +
      'to ln 2 = 0.693 (no key in common), mean over tokens and pairs: ' +
      `${number(data.divergence_within_groups)} within groups, ${number(data.divergence_between_groups)} between groups.`;
  fillTable('layers', ['Layer', 'Mask', 'Within', 'Between'], data.layers.map((l, i) => [
    i, l.window === null ? 'causal' : `window ${l.window}`, number(l.divergence_within_groups),
    number(l.divergence_between_groups)]));
  [...at('layers').tBodies[0].rows].forEach((tr, l) => { tr.onclick = () => choose(l, state.head); });
  const megabytes = (bytes) => `${(bytes / 1e6).toFixed(bytes < 1e8 ? 2 : 1)} MB`;
  fillTable('caches', ['Cache', 'Type', 'Tokens', 'MHA', `This (G=${data.num_kv_heads})`, 'MQA'], data.caches.map((c) => [
    c.kind, c.dtype, c.tokens, megabytes(c.mha_bytes), megabytes(c.bytes), megabytes(c.mqa_bytes)]));
  for (const [kind, svg] of Object.entries(data.masks)) {
    element('h3', `${kind} layers`, at('masks'));
    const image = element('img', undefined, at('masks'));
    image.alt = `Mask of ${kind} layers: which keys each query reads`;
    image.src = `data:image/svg+xml,${encodeURIComponent(svg)}`;
  }
  headTable();
  draw();
  new ResizeObserver(draw).observe(document.body);
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', draw);
})();
