// Signatures of Android's classes that this repository uses, for type checks without its SDK. They compute nothing.
@file:Suppress("UNUSED_PARAMETER")

package android.provider

import android.net.Uri

class DocumentsContract private constructor() {
    object Document {
        const val COLUMN_DOCUMENT_ID = "document_id"
        const val COLUMN_DISPLAY_NAME = "_display_name"
        const val COLUMN_MIME_TYPE = "mime_type"
        const val COLUMN_SIZE = "_size"
        const val MIME_TYPE_DIR = "vnd.android.document/directory"
    }

    companion object {
        @JvmStatic
        fun getTreeDocumentId(documentUri: Uri): String = TODO()

        @JvmStatic
        fun buildDocumentUriUsingTree(treeUri: Uri, documentId: String): Uri = TODO()

        @JvmStatic
        fun buildChildDocumentsUriUsingTree(treeUri: Uri, parentDocumentId: String): Uri = TODO()
    }
}
