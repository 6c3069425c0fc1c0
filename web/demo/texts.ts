/** Every text of the page, in every language. `?lang=zh` switches; English is what is missing nothing. */

import { ClosedBecause, ConnectionState, type ConnectionStatus, type ImageStatus } from "../src/index.js";

const en = {
  language: "en",
  skip: "Skip to the content",
  signOut: "Sign out",
  welcomeTitle: "Your dreams, with their pictures",
  welcomeText: "Write a dream down, drop photos where they belong, and watch them settle into the text.",
  signInTitle: "Sign in",
  devHint: "A development server: choose who you are.",
  userId: "User number",
  username: "Name",
  tokenHint: "This server gives out no development tokens. Paste a JWT that it accepts.",
  token: "Token",
  signIn: "Sign in",
  signedInAs: (name: string) => `Signed in as ${name}`,
  sessionExpired: "Your session has ended. Please sign in again; what you were writing is kept.",
  tokenMissing: "Paste a token first.",
  userIdMissing: "Enter a user number first.",
  tokenRefused: "The server does not accept this token.",
  appTitle: "Dream journal",
  composeTitle: "A new dream",
  titleLabel: "Title",
  titlePlaceholder: "Title",
  contentLabel: "What happened",
  contentPlaceholder: "What happened? Write it as it comes…",
  addPhotos: "Add photos",
  dropHint: "or drop or paste them: they go where the cursor is",
  preview: "Preview",
  submit: "Save dream",
  cancel: "Cancel",
  draftSaved: "Draft kept on this device",
  photoAtStart: "at the beginning",
  photoAtEnd: "at the end",
  photoAfter: (words: string) => `after “${words}”`,
  photoPosition: (name: string) => `Position of ${name} in the text`,
  photoToCursor: "Move to the cursor",
  photoRemove: (name: string) => `Remove ${name}`,
  photoNoPreview: "no preview",
  photoAdded: (count: number) => (count === 1 ? "1 photo added" : `${count} photos added`),
  uploading: (percent: number) => `Uploading… ${percent} %`,
  storing: "Uploaded. The server is storing it…",
  uploadCancelled: "Upload cancelled. Nothing was saved; your draft is still here.",
  saved: (title: string) => `Saved: ${title}`,
  journalTitle: "Journal",
  journalEmpty: "Nothing here yet. The first dream is the hardest to catch.",
  loadMore: "Older dreams",
  tryAgain: "Try again",
  retry: "Process again",
  delete: "Delete",
  deleteNamed: (title: string) => `Delete “${title}”`,
  deleteConfirm: "Delete for good",
  deleteKeep: "Keep",
  reconnectNow: "Reconnect now",
  picture: (number: number) => `Picture ${number}`,
  pictureOf: (number: number, title: string) => `Picture ${number} of “${title}”`,
  picturePending: "On its way…",
  pictureBroken: "This picture could not be loaded.",
  pictureProblem: (number: number, detail: string) => `Picture ${number}: ${detail}`,
  progress: (percent: number) => `Pictures: ${percent} % done`,
  status: {
    processing: "Processing",
    completed: "Ready",
    failed: "Failed",
    delete_processing: "Deleting",
    delete_completed: "Deleted",
    delete_failed: "Not deleted",
  } satisfies Record<ImageStatus, string>,
  announce: {
    processing: (title: string) => `${title}: pictures are being processed`,
    completed: (title: string) => `${title}: ready`,
    failed: (title: string) => `${title}: the pictures could not be processed`,
    delete_processing: (title: string) => `${title}: being deleted`,
    delete_completed: (title: string) => `${title}: deleted`,
    delete_failed: (title: string) => `${title}: could not be deleted`,
  } satisfies Record<ImageStatus, (title: string) => string>,
  /** What to show of a sentence that the server wrote, which is mostly English; null: our own words instead. */
  serverSentence: (sentence: string): string | null => (sentence === "" ? null : sentence),
  failedDefault: "The pictures could not be processed. Please try again.",
  partlyFailed: "Some pictures could not be processed.",
  deleteFailedDefault: "The dream could not be deleted. Please try again.",
  /** Sentences for the server's error codes; English uses the server's own. */
  imageErrors: {} as Record<string, string>,
  connection: (status: ConnectionStatus, seconds: number): string => {
    switch (status.state) {
      case ConnectionState.Idle:
        return "Not connected";
      case ConnectionState.Connecting:
        return "Connecting…";
      case ConnectionState.Authenticating:
        return "Signing in…";
      case ConnectionState.Open:
        return "Live";
      case ConnectionState.Waiting:
        return seconds > 0 ? `Reconnecting in ${seconds} s` : "Reconnecting…";
      case ConnectionState.Closed:
        return status.because === ClosedBecause.Requested || status.because === ClosedBecause.Ended
          ? "Not live"
          : "Connection refused";
    }
  },
  fields: { title: "Title", content: "Text", categories: "Categories", tags: "Tags" } as Record<string, string>,
  photoField: (number: number) => `Photo ${number}`,
  problems: {
    fields: "Please check:",
    titleMissing: "a dream needs a title",
    generic: (detail: string) => `That did not work: ${detail}.`,
    notFound: "This dream is not there any more.",
    conflict: "Nothing has failed here, so there is nothing to process again.",
    forbidden: "You may not do this.",
    tooLarge: (detail: string) => `Too large for the server (${detail}). Remove a photo or choose smaller ones.`,
    wrongType: (detail: string) => `The server does not take this kind of file (${detail}).`,
    tooMany: (seconds: number | null) =>
      seconds === null ? "Too many requests. Please wait a moment." : `Too many requests. Please try again in ${seconds} s.`,
    unavailable: (seconds: number | null) =>
      seconds === null
        ? "The server cannot take this right now. Nothing was saved; please try again in a moment."
        : `The server cannot take this right now. Nothing was saved; please try again in ${seconds} s.`,
    server: (status: number) => `The server failed (${status}). Nothing is lost on this side; please try again.`,
    network: "The server could not be reached. Is the network there?",
  },
};

/** All texts of one language. */
export type Texts = typeof en;

const zh: Texts = {
  language: "zh",
  skip: "跳到正文",
  signOut: "退出",
  welcomeTitle: "你的梦，和梦里的画面",
  welcomeText: "写下一个梦，把照片放到它该在的地方，看它们落进文字里。",
  signInTitle: "登录",
  devHint: "这是开发服务器：选择你的身份即可。",
  userId: "用户编号",
  username: "名字",
  tokenHint: "此服务器不签发开发令牌。请粘贴它认可的 JWT。",
  token: "令牌",
  signIn: "登录",
  signedInAs: (name) => `已登录：${name}`,
  sessionExpired: "登录已失效，请重新登录；你写的内容还在。",
  tokenMissing: "请先粘贴令牌。",
  userIdMissing: "请先填写用户编号。",
  tokenRefused: "服务器不接受此令牌。",
  appTitle: "梦境日记",
  composeTitle: "记一个梦",
  titleLabel: "标题",
  titlePlaceholder: "标题",
  contentLabel: "梦境内容",
  contentPlaceholder: "发生了什么？想到什么就写什么……",
  addPhotos: "添加照片",
  dropHint: "也可以拖入或粘贴，照片会放在光标处",
  preview: "预览",
  submit: "保存",
  cancel: "取消",
  draftSaved: "草稿已存于本机",
  photoAtStart: "在开头",
  photoAtEnd: "在末尾",
  photoAfter: (words) => `在“${words}”之后`,
  photoPosition: (name) => `${name} 在文中的位置`,
  photoToCursor: "移到光标处",
  photoRemove: (name) => `移除 ${name}`,
  photoNoPreview: "无法预览",
  photoAdded: (count) => `已添加 ${count} 张照片`,
  uploading: (percent) => `正在上传…… ${percent}%`,
  storing: "已上传，服务器正在保存……",
  uploadCancelled: "已取消上传。没有保存任何内容，草稿还在。",
  saved: (title) => `已保存：${title}`,
  journalTitle: "梦境日记",
  journalEmpty: "这里还没有内容。第一个梦总是最难抓住。",
  loadMore: "更早的梦",
  tryAgain: "重试",
  retry: "重新处理",
  delete: "删除",
  deleteNamed: (title) => `删除“${title}”`,
  deleteConfirm: "永久删除",
  deleteKeep: "保留",
  reconnectNow: "立即重连",
  picture: (number) => `图片 ${number}`,
  pictureOf: (number, title) => `“${title}”的图片 ${number}`,
  picturePending: "正在路上……",
  pictureBroken: "图片加载失败。",
  pictureProblem: (number, detail) => `图片 ${number}：${detail}`,
  progress: (percent) => `图片处理进度 ${percent}%`,
  status: {
    processing: "处理中",
    completed: "已完成",
    failed: "失败",
    delete_processing: "删除中",
    delete_completed: "已删除",
    delete_failed: "未能删除",
  },
  announce: {
    processing: (title) => `${title}：图片处理中`,
    completed: (title) => `${title}：已完成`,
    failed: (title) => `${title}：图片处理失败`,
    delete_processing: (title) => `${title}：正在删除`,
    delete_completed: (title) => `${title}：已删除`,
    delete_failed: (title) => `${title}：删除失败`,
  },
  serverSentence: (sentence) => (/\p{Script=Han}/u.test(sentence) ? sentence : null),
  failedDefault: "图片处理失败，请重试。",
  partlyFailed: "部分图片处理失败。",
  deleteFailedDefault: "删除失败，请重试。",
  imageErrors: {
    unsupported_format: "不支持的文件格式",
    unsupported_feature: "不支持此文件的编码方式",
    corrupt_image: "图片已损坏，无法读取",
    truncated_image: "图片文件不完整",
    too_many_pixels: "图片像素过多",
    side_too_long: "图片边长过大",
    too_many_frames: "动画帧数过多",
    animation_too_large: "动画过大",
    too_many_scans: "图片扫描次数过多",
    metadata_too_large: "图片附带信息过大",
    file_too_large: "文件过大",
    empty_file: "文件是空的",
    out_of_memory: "服务器内存不足",
    processing_failed: "处理失败",
    codec_failed: "图片解码失败",
    original_missing: "原图已不存在",
  },
  connection: (status, seconds) => {
    switch (status.state) {
      case ConnectionState.Idle:
        return "未连接";
      case ConnectionState.Connecting:
        return "正在连接……";
      case ConnectionState.Authenticating:
        return "正在验证……";
      case ConnectionState.Open:
        return "实时";
      case ConnectionState.Waiting:
        return seconds > 0 ? `${seconds} 秒后重连` : "正在重连……";
      case ConnectionState.Closed:
        return status.because === ClosedBecause.Requested || status.because === ClosedBecause.Ended ? "非实时" : "连接被拒绝";
    }
  },
  fields: { title: "标题", content: "内容", categories: "分类", tags: "标签" },
  photoField: (number) => `照片 ${number}`,
  problems: {
    fields: "请检查：",
    titleMissing: "需要一个标题",
    generic: (detail) => `操作未成功：${detail}。`,
    notFound: "这个梦已经不在了。",
    conflict: "没有失败的图片，无需重新处理。",
    forbidden: "你没有权限这样做。",
    tooLarge: (detail) => `内容超出服务器上限（${detail}）。请移除一些照片或换小一点的。`,
    wrongType: (detail) => `服务器不接受这种文件（${detail}）。`,
    tooMany: (seconds) => (seconds === null ? "请求过于频繁，请稍候。" : `请求过于频繁，请 ${seconds} 秒后再试。`),
    unavailable: (seconds) =>
      seconds === null
        ? "服务器暂时无法保存，内容未提交，请稍后再试。"
        : `服务器暂时无法保存，内容未提交，请 ${seconds} 秒后再试。`,
    server: (status) => `服务器出错（${status}）。你的内容没有丢失，请重试。`,
    network: "无法连接服务器，请检查网络。",
  },
};

const LANGUAGES: { readonly [language: string]: Texts } = { en, zh };

/** The texts of the page's language. */
export const texts: Texts = LANGUAGES[new URLSearchParams(globalThis.location?.search ?? "").get("lang") ?? "en"] ?? en;

/** Puts the texts into the static parts of the page. */
export function translatePage(): void {
  document.documentElement.lang = texts.language;
  for (const element of document.querySelectorAll<HTMLElement>("[data-text]")) {
    const text = texts[element.dataset["text"] as keyof Texts];
    if (typeof text === "string") element.textContent = text;
  }
  for (const element of document.querySelectorAll<HTMLInputElement | HTMLTextAreaElement>("[data-placeholder]")) {
    const text = texts[element.dataset["placeholder"] as keyof Texts];
    if (typeof text === "string") element.placeholder = text;
  }
  const other = texts.language === "en" ? "zh" : "en";
  const link = document.querySelector<HTMLAnchorElement>("#language");
  if (link !== null) {
    link.href = `?lang=${other}`;
    link.lang = other;
    link.hreflang = other;
    link.textContent = other === "zh" ? "中文" : "English";
  }
  const home = document.querySelector<HTMLAnchorElement>("[data-keep-lang]");
  if (home !== null && texts.language !== "en") home.href = `./?lang=${texts.language}`;
}
