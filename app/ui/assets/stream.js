// No event of the page is lost. Gradio answers events over one stream (/queue/data), which its server ends when nothing
// is due. An event that is queued (/queue/join) at that moment was lost: the page took the stream that was ending for an
// open one and waited for ever. Here the page learns of the end only if nothing is due, and of a newly queued event only
// when it knows of the end. To be loaded before Gradio's own script.
(() => {
  "use strict";
  const fetched = window.fetch.bind(window);
  const due = new Set(); // ids of queued events that are not over
  const over = new Set(); // ids of events that were over before the answer that names them came
  let ending = Promise.resolve(); // settled when the page knows that its stream has ended

  window.fetch = (input, options) => {
    const path = new URL(input.url ?? input, location.href).pathname;
    if (path.endsWith("/queue/join")) return join(input, options);
    if (path.endsWith("/queue/data")) return listen(new Request(input, options));
    return fetched(input, options);
  };

  async function join(input, options) {
    const answer = await fetched(input, options);
    if (answer.ok) {
      const id = (await answer.clone().json()).event_id;
      if (!over.delete(id)) due.add(id);
    }
    await ending;
    return answer;
  }

  async function listen(request) {
    over.clear();
    const first = await fetched(request);
    if (!first.ok) return first;
    let messages = parts(first);
    const next = async () => read((await messages.next()).value ?? "");
    const body = new ReadableStream({
      async pull(page) {
        let message = await next();
        while (message.isEnd && due.size) {
          const again = await fetched(request);
          if (!again.ok) throw new Error(`the stream of events is gone: ${again.status}`); // the page says so
          messages = parts(again);
          message = await next();
        }
        if (message.isEnd) ending = known(request.signal);
        if (message.text) page.enqueue(new TextEncoder().encode(message.text));
        else page.close();
      },
    }, { highWaterMark: 0 });
    return new Response(body, { status: first.status, headers: first.headers });
  }

  // The messages of a stream, each with the empty line that ends it.
  async function* parts(answer) {
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (let step; !(step = await reader.read()).done;) {
      text += step.value;
      for (let end; (end = text.indexOf("\n\n")) >= 0; text = text.slice(end + 2)) yield text.slice(0, end + 2);
    }
    if (text) yield text;
  }

  // A message, and whether it ends the stream; one that ends an event, or breaks all of them off, is taken note of.
  function read(text) {
    if (!/"(close_stream|process_completed|unexpected_error)"/.test(text)) return { text };
    const { msg, event_id: id } = JSON.parse(text.slice(text.indexOf("{")));
    if (msg === "process_completed" && !due.delete(id)) over.add(id);
    if (msg === "unexpected_error") due.clear();
    return { text, isEnd: msg === "close_stream" };
  }

  // Gradio takes note of the end, then aborts the request. The second is for one that would not.
  function known(signal) {
    return new Promise((settle) => {
      signal.addEventListener("abort", settle, { once: true });
      setTimeout(settle, 1000);
    });
  }
})();
