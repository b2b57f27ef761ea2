for (const clip of document.querySelectorAll("article.labelled")) {
  const player = clip.querySelector("audio");
  const seconds = Number(clip.dataset.seconds);
  const move = () => {
    clip.style.setProperty("--at", player.currentTime / seconds);
    if (!player.paused) requestAnimationFrame(move);
  };
  player.addEventListener("play", () => {
    for (const other of document.querySelectorAll("audio")) if (other !== player) other.pause();
    move();
  });
  player.addEventListener("seeked", move);
  for (const plot of clip.querySelectorAll(".plot")) {
    plot.addEventListener("click", (event) => {
      const box = plot.getBoundingClientRect();
      player.currentTime = seconds * (event.clientX - box.left) / box.width;
      player.play().catch(() => {}); // another clip was begun at once
    });
  }
}
