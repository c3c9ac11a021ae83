// The parts of the memory panel, without a number in them.

export const MARKUP = `
<link rel="stylesheet" href="${new URL("memory_map.css", import.meta.url)}">
<section class="panel" aria-labelledby="title">
  <header><h2 id="title">Memory</h2><span class="state" data-state="empty"></span></header>
  <div id="memory-gauge" class="gauge" role="meter" aria-label="Cells in use" aria-valuemin="0" aria-valuenow="0" aria-valuemax="0">
    <div class="track"><div class="fill"></div></div>
    <div class="numbers"><span class="cells"></span><span class="bytes"></span></div>
  </div>
  <dl>
    <div><dt>tokens seen</dt><dd class="seen">0</dd></div>
    <div><dt>per second</dt><dd class="speed">–</dd></div>
    <div><dt>compactions</dt><dd class="compactions">0</dd></div>
    <div><dt>a full cache</dt><dd class="full">–</dd></div>
  </dl>
  <div class="picture">
    <canvas id="memory-map" role="img" tabindex="0" aria-label="Memory map: nothing has been read yet." aria-describedby="keys"></canvas>
    <div class="tip" role="tooltip" hidden></div>
    <div class="empty"><p><b>Nothing read yet.</b></p><p>Send a message or drop in a document: this picture then shows, while it happens,
      which layers of the model still hold which part of the text. The newest text enters at the right; when the memory is full, what is
      older is thinned, in different layers at different places.</p></div>
  </div>
  <p class="text" aria-hidden="true"></p>
  <p class="story"></p>
  <div class="legend" aria-hidden="true">
    <span class="scale"><i></i><span>nothing</span><span>a trace</span><span>half</span><span>all of it</span></span>
    <span><i class="ember"></i>just let go</span><span><i class="pin"></i>pinned, never thinned</span>
  </div>
  <p id="keys" class="spoken">Arrow keys move a cursor over the picture and read the text there; up and down change the magnification.</p>
  <p class="spoken said" aria-live="polite"></p>
</section>`;
